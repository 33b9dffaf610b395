// Package integration holds the tests that drive the built command on real processes. Each program in testdata sets up
// one kind of state, says READY, waits, and checks that the state is as it was; here it is snapped, killed and brought
// back in between.
//
// Targets are children of the test process, which is also the subreaper of everything below it: a killed target's pid
// is free as soon as the test has waited for it, and what a test leaves behind is found at the end.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// built is where the command and the programs are; TestMain fills it once, before any test runs.
var built struct {
	dir string // everything below is removed at the end
	cmd string // bpfckpt
}

func TestMain(m *testing.M) {
	if pid := os.Getenv(registersOf); pid != "" {
		if err := printRegisters(pid); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runAll(m))
}

func runAll(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the integration tests need root: they bring processes back under their old ids")
		return 1
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "becoming a subreaper:", err)
		return 1
	}
	unix.Umask(0o022)
	// by nohup(1), and in all that we start; a signal that is caught is back at its default there
	if signal.Ignored(unix.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), unix.SIGHUP)
	}
	keepInherited()
	done, err := buildAll()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer done()
	if os.Getenv("BPFCKPT_BUILD") != "" {
		return 0
	}
	os.Setenv("TMPDIR", built.dir) // what the command makes there is seen at the end
	before := observe()
	code := m.Run()
	left := leftBehind(before)
	for end := time.Now().Add(endGrace); len(left) > 0 && time.Now().Before(end); left = leftBehind(before) {
		time.Sleep(50 * time.Millisecond)
	}
	if len(left) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: the tests left behind:\n  %s\n", strings.Join(left, "\n  "))
		return 1
	}
	return code
}

// endGrace is how long what is ending may take: a watch ends by itself a moment after its program.
const endGrace = 20 * time.Second

// buildAll fills built. The kernel matrix has no compiler in its guests: on the host it lets us build into
// $BPFCKPT_BUILD and do no more; in the guest what was built is in $BPFCKPT_BUILT.
func buildAll() (done func(), err error) {
	use := func(dir string) { built.dir, built.cmd = dir, filepath.Join(dir, "bpfckpt") }
	if dir := os.Getenv("BPFCKPT_BUILT"); dir != "" {
		use(dir)
		return func() {}, nil
	}
	if dir := os.Getenv("BPFCKPT_BUILD"); dir != "" {
		use(dir)
		return func() {}, build(dir)
	}
	dir, err := os.MkdirTemp("", "integration-")
	if err != nil {
		return nil, err
	}
	use(dir)
	if err := build(dir); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return func() { os.RemoveAll(dir) }, nil
}

// keepInherited keeps descriptors that whoever runs the tests left open from the targets: they belong to others, and
// are refused.
func keepInherited() {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if n, err := strconv.Atoi(fd.Name()); err == nil && n > 2 {
			unix.CloseOnExec(n)
		}
	}
}

// build makes the command, the C programs and the Go program.
func build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // programs that drop their privileges run from here
		return err
	}
	var g errgroup.Group
	g.SetLimit(2)
	compile := func(name string, args ...string) {
		g.Go(func() error {
			out, err := exec.Command(name, args...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
			}
			return nil
		})
	}
	compile("go", "build", "-o", built.cmd, "../cmd/bpfckpt")
	compile("go", "build", "-o", filepath.Join(dir, "goroutines"), "./testdata/goroutines")
	sources, err := filepath.Glob("testdata/*.c")
	if err != nil {
		return err
	}
	cc := func(out, source string, flags ...string) {
		args := append([]string{
			"-O1", "-g", "-Wall", "-Wextra", "-Werror", "-o", filepath.Join(dir, out), source,
			"-pthread",
		}, flags...)
		compile("gcc", args...)
	}
	for _, source := range sources {
		name := strings.TrimSuffix(filepath.Base(source), ".c")
		if name == "omp" {
			cc(name, source, "-fopenmp")
			continue
		}
		cc(name, source)
	}
	cc("regions-lib.so", "testdata/regions.c", "-DLIBRARY", "-shared", "-fPIC", "-s")
	cc("regions-static", "testdata/regions.c", "-DNO_DLOPEN", "-static", "-s")
	random, err := filepath.Glob("testdata/random/*.c")
	if err != nil {
		return err
	}
	cc("random", random[0], random[1:]...)
	cc("counter-example", "../examples/counter/counter.c")
	cc("counter-static", "testdata/counter.c", "-static")
	cc("threads-static", "testdata/threads.c", "-static")
	return g.Wait()
}

func counterExample() string { return filepath.Join(built.dir, "counter-example") }

// observation is what must be the same after the tests as before.
type observation struct {
	mounts string
	files  map[string]bool
	procs  map[string]bool
}

// observe looks at the places where a failed restore or snapshot could leave something.
func observe() observation {
	o := observation{files: map[string]bool{}, procs: map[string]bool{}}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	o.mounts = string(mounts)
	for _, place := range []string{"/dev/shm", "/var/tmp", built.dir} {
		entries, _ := os.ReadDir(place)
		for _, e := range entries {
			if place == built.dir || strings.Contains(e.Name(), "bpfckpt") {
				o.files[filepath.Join(place, e.Name())] = true
			}
		}
	}
	for _, p := range processes() {
		o.procs[p] = true
	}
	semaphores, _ := os.ReadFile("/proc/sysvipc/sem")
	for line := range strings.Lines(string(semaphores)) {
		o.files["semaphores "+strings.Join(strings.Fields(line)[:2], " ")] = true // key and id
	}
	return o
}

// processes lists our descendants that are not zombies of ours, as "pid name".
func processes() []string {
	var list []string
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		pid := filepath.Base(filepath.Dir(stat))
		name, parent := nameAndParent(pid)
		for p := parent; p != "" && p != "0"; _, p = nameAndParent(p) {
			if p == fmt.Sprint(os.Getpid()) {
				list = append(list, pid+" "+name)
				break
			}
		}
	}
	return list
}

func nameAndParent(pid string) (name, parent string) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", ""
	}
	s := string(b)
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	fields := strings.Fields(s[end+1:])
	return s[open+1 : end], fields[1]
}

// leftBehind names what is there now and was not before.
func leftBehind(before observation) []string {
	reapAll()
	after := observe()
	var left []string
	if after.mounts != before.mounts {
		left = append(left, "mounts:\n"+after.mounts)
	}
	for name := range after.files {
		if !before.files[name] {
			left = append(left, "file "+name)
		}
	}
	for p := range after.procs {
		if !before.procs[p] {
			left = append(left, "process "+p)
		}
	}
	return left
}

// reapAll waits for the dead orphans that came to us.
func reapAll() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
	}
}
