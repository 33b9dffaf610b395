package procid

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/timens"
)

// askEnv makes the test binary a process that names another, by its pid, and waits for the end of its input. With
// "inside" it is the first of a pid namespace, and names itself.
const askEnv = "PROCID_TEST_ASK"

func TestMain(m *testing.M) {
	what := os.Getenv(askEnv)
	if what == "" {
		os.Exit(m.Run())
	}
	pid := os.Getpid()
	if what == "inside" {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			panic(err)
		}
	} else if _, err := fmt.Sscan(what, &pid); err != nil {
		panic(err)
	}
	id, err := Of(pid)
	if err != nil {
		panic(err)
	}
	fmt.Println(id)
	_, _ = io.ReadAll(os.Stdin)
	os.Exit(0)
}

// ask starts the test binary and returns the name it prints.
func ask(t *testing.T, what string, attr *syscall.SysProcAttr) (pid int, id ID) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), askEnv+"="+what)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	var text string
	if _, err := fmt.Fscanln(out, &text); err != nil {
		t.Fatal(err)
	}
	id, ok := Parse(strings.TrimSpace(text))
	if !ok {
		t.Fatalf("it names the process %q", text)
	}
	return cmd.Process.Pid, id
}

// A process has one name, inside and outside of its pid namespace, and two that have the same pid in two namespaces
// have two.
func TestInsideAndOutside(t *testing.T) {
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Unshareflags: unix.CLONE_NEWNS}
	pid1, inside1 := ask(t, "inside", attr)
	pid2, inside2 := ask(t, "inside", attr)
	view, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	for pid, inside := range map[int]ID{pid1: inside1, pid2: inside2} {
		outside, err := Of(pid)
		if err != nil || outside != inside || inside.Pid != 1 {
			t.Errorf("outside it is %v, inside %v, %v", outside, inside, err)
		}
		if at, s := view.Find(inside); at != pid || s != Lives {
			t.Errorf("%v is found as pid %d, %v, not %d", inside, at, s, pid)
		}
	}
	if inside1.Is(inside2) {
		t.Errorf("two processes are %v", inside1)
	}
}

// In a time namespace start times look different (time_namespaces(7)); the name is the same but for one tick.
func TestTimeNamespace(t *testing.T) {
	want, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("BPFCKPT_GUEST") != "" {
		t.Skip("Linux before 6.3 lets no vfork(2), as package os makes one, enter a time namespace; the host runs this")
	}
	for _, boottime := range []int64{3600e9, 5e6, -123456789} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: the thread ends, and its namespace with it
			err := unix.Unshare(unix.CLONE_NEWTIME)
			if err == nil {
				err = timens.Offsets{Boottime: boottime}.Set(unix.Gettid())
			}
			if err != nil {
				t.Errorf("a time namespace: %v", err)
				return
			}
			_, id := ask(t, fmt.Sprint(os.Getpid()), nil)
			if !id.Is(want) || boottime%tick == 0 && id != want {
				t.Errorf("with boottime %d ns ahead it is %v, not %v", boottime, id, want)
			}
		}()
		<-done
	}
}

func TestParse(t *testing.T) {
	for _, text := range []string{"", "1", "1-2", "1-2-", "1-2-3-4", "a-2-3", "1-2-03", "-1-2-3"} {
		if id, ok := Parse(text); ok {
			t.Errorf("%q is %+v", text, id)
		}
	}
	want := ID{NS: Initial, Pid: 7, Start: 4711}
	if id, ok := Parse(want.String()); !ok || id != want {
		t.Errorf("%q is %+v, %v", want, id, ok)
	}
}

func TestEnded(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	view, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	if _, s := view.Find(id); s != Ended {
		t.Errorf("%v is found, %v", id, s)
	}
	if _, err := Of(cmd.Process.Pid); !errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		t.Error(err)
	}
}
