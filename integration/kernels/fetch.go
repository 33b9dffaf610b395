package kernels

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Kernel is a kernel to boot.
type Kernel struct {
	Package string // Debian package, for example "linux-image-6.1.0-56-amd64"
	Image   string // path of the bzImage
}

// ErrNoKernel means that Debian's package lists name no kernel package that fits.
var ErrNoKernel = errors.New("no kernel package found; run apt-get update first")

// imageName matches the real package behind the metapackage linux-image-amd64.
var imageName = regexp.MustCompile(`\blinux-image-6\.1\.[0-9]+-[0-9]+-amd64\b`)

// CacheDir is where kernels are kept between runs: $BPFCKPT_KERNEL_CACHE, else bpfckpt/kernels in the user's cache
// directory.
func CacheDir() (string, error) {
	if dir := os.Getenv("BPFCKPT_KERNEL_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(base, "bpfckpt", "kernels"), nil
}

// FetchKernel returns Debian's current 6.1 kernel, from the cache if its version is there. Nothing is installed.
func FetchKernel(ctx context.Context) (Kernel, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "linux-image-amd64").Output()
	if err != nil {
		return Kernel{}, fmt.Errorf("ask apt for the current kernel: %w", err)
	}
	name := imageName.FindString(string(out))
	if name == "" {
		return Kernel{}, ErrNoKernel
	}
	image, err := fetchFile(ctx, name, "boot/vmlinuz-"+strings.TrimPrefix(name, "linux-image-"))
	return Kernel{Package: name, Image: image}, err
}

// FetchBusybox returns a static busybox, which gives the guest sh, sleep, cat and the like.
func FetchBusybox(ctx context.Context) (string, error) {
	return fetchFile(ctx, "busybox-static", "bin/busybox")
}

// fetchFile takes one file out of a Debian package, through the cache. The package's version is part of the cache's
// key, so a security update is noticed.
func fetchFile(ctx context.Context, pkg, file string) (string, error) {
	version, err := candidate(ctx, pkg)
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, pkg+"_"+strings.NewReplacer(":", "%3a", "/", "_").Replace(version))
	path := filepath.Join(dir, filepath.Base(file))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := downloadInto(ctx, tmp, pkg, version, file); err != nil {
		return "", fmt.Errorf("fetch %s: %w", pkg, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return path, os.Rename(filepath.Join(tmp, file), path)
}

func candidate(ctx context.Context, pkg string) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "policy", pkg).Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for %s: %w", pkg, err)
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			return v, nil
		}
	}
	return "", fmt.Errorf("package %s: %w", pkg, ErrNoKernel)
}

// downloadInto leaves the package's file at dir/file.
func downloadInto(ctx context.Context, dir, pkg, version, file string) error {
	get := exec.CommandContext(ctx, "apt-get", "download", "-q", pkg+"="+version)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(debs))
	}
	cat := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", debs[0])
	tar := exec.CommandContext(ctx, "tar", "-x", "-C", dir, "./"+file)
	if tar.Stdin, err = cat.StdoutPipe(); err != nil {
		return err
	}
	if err := cat.Start(); err != nil {
		return err
	}
	out, tarErr := tar.CombinedOutput()
	if err := cat.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb: %w", err)
	}
	if tarErr != nil {
		return fmt.Errorf("tar: %w: %s", tarErr, out)
	}
	return nil
}
