package kernels

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// The integration tests run C programs, Python and Perl. The guest has no compiler, so the host builds the programs,
// and they are packed with the libraries they need; the interpreters come with as much of their libraries as the tests
// use.

// integrationTimeout is the guest time of all integration tests.
const integrationTimeout = 15 * time.Minute

// AddIntegration plans to run the integration tests.
func (s *Suite) AddIntegration(ctx context.Context, args ...string) error {
	const test = "/test/integration.test"
	if err := s.build(ctx, test, "test", "-c", "-vet=off", "./integration"); err != nil {
		return err
	}
	dir := filepath.Join(s.Root, "integration")
	built := filepath.Join(s.Work, "built")
	if err := os.Mkdir(built, 0o755); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, s.Tree.files[clean(test)])
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "BPFCKPT_BUILD="+built)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs of the integration tests: %w\n%s", err, out)
	}
	if err := s.Tree.AddDir("/built", built); err != nil {
		return err
	}
	if err := s.Tree.AddDir("/src/integration/testdata", filepath.Join(dir, "testdata")); err != nil {
		return err
	}
	if err := s.addLibraries(ctx, built); err != nil {
		return err
	}
	if err := s.addInterpreters(ctx); err != nil {
		return err
	}
	s.Plan.Commands = append(s.Plan.Commands, Command{
		Name: "integration", Dir: "/src/integration", Timeout: integrationTimeout,
		Args: append([]string{test, "-test.timeout=" + (integrationTimeout - 10*time.Second).String()}, args...),
		Env:  []string{"BPFCKPT_GUEST=1", "BPFCKPT_BUILT=/built"},
	})
	return nil
}

// addLibraries adds what the dynamically linked programs in a directory of the host need, at the paths they have here.
func (s *Suite) addLibraries(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !dynamic(name) {
			return err
		}
		return s.addNeeded(ctx, name)
	})
}

// libraryLine matches ldd's lines "NAME => PATH (ADDRESS)" and "PATH (ADDRESS)".
var libraryLine = regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x`)

func (s *Suite) addNeeded(ctx context.Context, name string) error {
	out, err := exec.CommandContext(ctx, "ldd", name).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", name, err)
	}
	for _, m := range libraryLine.FindAllSubmatch(out, -1) {
		if err := s.addHostFile(string(m[1])); err != nil {
			return err
		}
	}
	return nil
}

// addHostFile adds a file of the host at its path; symbolic links on the way are resolved, so the guest's file is a
// plain one.
func (s *Suite) addHostFile(name string) error {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	s.Tree.AddFile(name, real)
	return nil
}

// dynamic reports whether the file is an ELF program or library with a dynamic section.
func dynamic(name string) bool {
	f, err := elf.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	return f.Section(".dynamic") != nil
}

// addInterpreters adds python3 and perl as they are here.
func (s *Suite) addInterpreters(ctx context.Context) error {
	ask := exec.CommandContext(ctx, "python3", "-c",
		`import json, os, sys, sysconfig; print(json.dumps([os.path.realpath(sys.executable), sys.executable, sysconfig.get_path("stdlib")]))`)
	out, err := ask.Output()
	if err != nil {
		return fmt.Errorf("ask python3 where it is: %w", err)
	}
	var where []string
	if err := json.Unmarshal(bytes.TrimSpace(out), &where); err != nil {
		return fmt.Errorf("ask python3 where it is: %w", err)
	}
	if err := s.addProgram(ctx, where[0], "python3"); err != nil {
		return err
	}
	if where[1] != where[0] {
		s.Tree.AddFile(where[1], where[0])
	}
	if err := s.addPythonLibrary(ctx, where[2]); err != nil {
		return err
	}
	perl, err := exec.LookPath("perl")
	if err != nil {
		return err
	}
	base, err := exec.CommandContext(ctx, perl, "-Mstrict", "-e", `print $INC{"strict.pm"}`).Output()
	if err != nil {
		return fmt.Errorf("ask perl where its library is: %w", err)
	}
	if err := s.Tree.AddDir(filepath.Dir(string(base)), filepath.Dir(string(base))); err != nil {
		return err
	}
	return s.addProgram(ctx, perl, "perl")
}

// addProgram adds a dynamically linked program of the host, its libraries, and a link in the guest's PATH.
func (s *Suite) addProgram(ctx context.Context, name, link string) error {
	if err := s.addHostFile(name); err != nil {
		return err
	}
	if in := path.Join("/usr/bin", link); in != name {
		s.Tree.AddLink(in, name)
	}
	return s.addNeeded(ctx, name)
}

// unusedPython are the parts of Python's library that no test imports; they are most of its size.
var unusedPython = map[string]bool{
	"test": true, "site-packages": true, "dist-packages": true, "idlelib": true, "tkinter": true, "turtledemo": true,
	"ensurepip": true,
	"lib2to3":   true, "pydoc_data": true, "distutils": true, "unittest": true,
}

func (s *Suite) addPythonLibrary(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (unusedPython[d.Name()] || strings.HasPrefix(d.Name(), "config-")) {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		s.Tree.AddFile(name, name)
		if strings.HasSuffix(name, ".so") {
			return s.addNeeded(ctx, name)
		}
		return nil
	})
}
