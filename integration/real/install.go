package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// install installs the Debian packages of programs whose commands or files are not there.
func install(ctx context.Context, list []program) error {
	packages := missing(list)
	if len(packages) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these are missing (Debian package names); install them first: %s",
			strings.Join(packages, " "))
	}
	fmt.Println("installing", strings.Join(packages, " "))
	// Another apt-get may run: its locks are waited for.
	wait := []string{"-q", "-o", "DPkg::Lock::Timeout=1200", "-o", "Dpkg::Use-Pty=0"}
	update := append(slices.Clone(wait), "update")
	install := append(append(slices.Clone(wait), "install", "-y", "--no-install-recommends"), packages...)
	for _, args := range [][]string{update, install} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[len(wait)], err, out)
		}
	}
	if packages = missing(list); len(packages) > 0 {
		return errors.New("installed, but not what was expected of them: " + strings.Join(packages, " "))
	}
	return nil
}

// missing are the packages that bring what programs need and is not there.
func missing(list []program) []string {
	var packages []string
	for _, p := range list {
		for _, need := range p.needs {
			what, pkg, _ := strings.Cut(need, "=")
			if !present(what) && !slices.Contains(packages, pkg) {
				packages = append(packages, pkg)
			}
		}
	}
	return packages
}

// present reports whether a file, or a command on the path, is there.
func present(what string) bool {
	if strings.HasPrefix(what, "/") {
		_, err := os.Stat(what)
		return err == nil
	}
	_, err := exec.LookPath(what)
	return err == nil
}
