package kernels

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/testprog"
)

// excluded are the packages whose tests say nothing about a kernel, with the reason. Every other package of the module
// that has tests runs in the guest, so a new one is not forgotten.
var excluded = map[string]string{
	"integration":         "is added by AddIntegration",
	"integration/kernels": "is the matrix itself",
	"internal/archtest":   "reads the source tree",
	"cmd/bpfckpt":         "is about the command line; the integration tests drive the command",
	"docs":                "reads the source tree",
}

// notCore are packages left out of the core part: they take long under emulation or depend little on the kernel.
var notCore = map[string]bool{
	"image":          true,
	"internal/bench": true,
	"model":          true,
}

// coreTests are the tests of the core part where a package's others take long under emulation; of packages not named
// here all run.
var coreTests = map[string]string{
	"internal/dirty":       "Exactly|ExecOwnAndFork|OwnUserfaultfd|NothingStays|Killed",
	"internal/kstate/proc": "Running",
	"internal/ptrace":      "FreezeAndThaw|InjectWhileStopped|InjectTargetDies|InjectPunished|Filter|SignalXState",
	"snapshot":             "Refus|Check|Tree|Stop|Kill|Breakpoints|TargetIsAsBefore|LeavesNoTrace",
	"tracer":               "Events|EveryTurn|Verifier|Decisions|Record|LostEnds|TestChurn|OpenedAs|Tree$|Usage|TwoProcesses",
}

// timeout is the guest time one package's tests have. Emulation is ten to thirty times slower than the host, and that
// is with nothing else to do: the longest takes a minute and a half then, and took four beside five busy processes.
const timeout = 10 * time.Minute

// Pkg is a Go package with tests.
type Pkg struct {
	Rel string // path below the module's root
	Dir string // on this machine
	Run string // the tests to run, as in go test -run; all if empty
}

// Packages lists the module's packages that run in the guest, or the core part of them.
func Packages(ctx context.Context, root string, core bool) ([]Pkg, error) {
	list := exec.CommandContext(ctx, "go", "list", "-json=ImportPath,Dir,Module,TestGoFiles,XTestGoFiles", "./...")
	list.Dir = root
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []Pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			Module                    struct{ Path string }
			TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the answer of go list: %w", err)
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, p.Module.Path), "/")
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 || excluded[rel] != "" || core && notCore[rel] {
			continue
		}
		pkg := Pkg{Rel: rel, Dir: p.Dir}
		if core {
			pkg.Run = coreTests[rel]
		}
		pkgs = append(pkgs, pkg)
	}
}

// Suite builds what a guest needs and collects it.
type Suite struct {
	Root string // of the module
	Work string // a directory for what is built; the caller removes it
	Tree *Tree
	Plan Plan
}

// NewSuite starts a suite: the init, busybox under its usual names, the built bpfckpt, and the few files a C library
// looks for.
func NewSuite(ctx context.Context, root, work string) (*Suite, error) {
	s := &Suite{Root: root, Work: work, Tree: NewTree()}
	if err := s.build(ctx, "/init", "build", "./integration/kernels/guestinit"); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(root, "cmd", "bpfckpt")); err == nil {
		if err := s.build(ctx, "/bin/bpfckpt", "build", "./cmd/bpfckpt"); err != nil {
			return nil, err
		}
	}
	busybox, err := FetchBusybox(ctx)
	if err != nil {
		return nil, err
	}
	s.Tree.AddFile("/bin/busybox", busybox)
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("ask busybox for its applets: %w", err)
	}
	for _, a := range strings.Fields(string(applets)) {
		if a != "busybox" && a != "init" && a != "linuxrc" {
			s.Tree.AddLink("/bin/"+a, "busybox")
		}
	}
	s.Tree.AddData("/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	s.Tree.AddData("/etc/group", []byte("root:x:0:\nnogroup:x:65534:\n"))
	s.Tree.AddData("/etc/hosts", []byte("127.0.0.1 localhost\n"))
	return s, nil
}

// build runs `go VERB` on a package, statically and without symbols, and puts the result at guest.
func (s *Suite) build(ctx context.Context, guest string, verb ...string) error {
	out := filepath.Join(s.Work, strings.ReplaceAll(strings.Trim(guest, "/"), "/", "_"))
	pkg := verb[len(verb)-1]
	args := append(verb[:len(verb)-1:len(verb)-1], "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = s.Root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, msg)
	}
	s.Tree.AddFile(guest, out)
	return nil
}

// AddPackage builds the tests of a package and plans to run them, in a copy of the package's directory that holds its
// testdata.
func (s *Suite) AddPackage(ctx context.Context, p Pkg, args ...string) error {
	name := "/test/" + strings.ReplaceAll(p.Rel, "/", "-") + ".test"
	if p.Rel == "" {
		name = "/test/root.test"
	}
	if err := s.build(ctx, name, "test", "-c", "-vet=off", "./"+p.Rel); err != nil {
		return err
	}
	dir := path.Join("/src", p.Rel)
	if err := s.Tree.AddDir(dir+"/testdata", filepath.Join(p.Dir, "testdata")); err != nil {
		return err
	}
	if err := s.addPrograms(ctx, p, dir+"/testdata"); err != nil {
		return err
	}
	s.Tree.AddData(dir+"/.keep", nil)
	if p.Run != "" {
		args = append(args[:len(args):len(args)], "-test.run="+p.Run)
	}
	s.Plan.Commands = append(s.Plan.Commands, Command{
		Name: path.Join(".", p.Rel), Dir: dir, Timeout: timeout,
		Args: append([]string{name, "-test.timeout=" + (timeout - 10*time.Second).String()}, args...),
		Env:  []string{"BPFCKPT_GUEST=1", "BPFCKPT_BIN=/bin/bpfckpt"},
	})
	return nil
}

// addPrograms builds the C programs in a package's testdata, and those of the integration tests, which several packages
// use, statically: the guest has no compiler. The tests find x where they would compile x.c.
func (s *Suite) addPrograms(ctx context.Context, p Pkg, guest string) error {
	const shared = "/src/integration/testdata"
	sources, err := filepath.Glob(filepath.Join(p.Dir, "testdata", "*.c"))
	// AddIntegration brings its own
	if err != nil || len(sources) == 0 || guest != shared && strings.HasPrefix(p.Rel, "integration") {
		return err
	}
	for _, source := range sources {
		name := strings.TrimSuffix(filepath.Base(source), ".c")
		// OpenMP's library is shared only
		if _, ok := s.Tree.files[clean(path.Join(guest, name))]; ok || name == "omp" {
			continue
		}
		out := filepath.Join(s.Work, strings.ReplaceAll(strings.Trim(guest, "/"), "/", "_")+"_"+name)
		if err := testprog.Compile(source, filepath.Join(s.Root, "integration/testdata"), out, "-w",
			"-static"); err != nil {
			return err
		}
		s.Tree.AddFile(path.Join(guest, name), out)
	}
	if guest == shared {
		return nil
	}
	return s.addPrograms(ctx, Pkg{Rel: "integration", Dir: filepath.Join(s.Root, "integration")}, shared)
}

// AddProgram plans to run a static program of the host.
func (s *Suite) AddProgram(host string, args ...string) {
	guest := "/prog/" + filepath.Base(host)
	s.Tree.AddFile(guest, host)
	s.Plan.Commands = append(s.Plan.Commands,
		Command{Name: filepath.Base(host), Args: append([]string{guest}, args...), Timeout: timeout})
}

// skipLine and passLine count what a Go test run printed with -test.v.
var (
	skipLine = regexp.MustCompile(`(?m)^\s*--- SKIP: (\S+)`)
	failLine = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	passLine = regexp.MustCompile(`(?m)^\s*--- PASS: (\S+)`)
)

// Tests counts the tests in a command's output, which must come from -test.v.
func (o Outcome) Tests() (passed int, failed, skipped []string) {
	names := func(re *regexp.Regexp) (out []string) {
		for _, m := range re.FindAllSubmatch(o.Output, -1) {
			out = append(out, string(m[1]))
		}
		return out
	}
	return len(passLine.FindAll(o.Output, -1)), names(failLine), names(skipLine)
}
