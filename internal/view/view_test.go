package view

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/timens"
)

// askEnv makes the test binary a process that names another, by its pid, and waits for the end of its input. With
// "inside" it is the first of a pid namespace, and names itself.
const askEnv = "VIEW_TEST_ASK"

func TestMain(m *testing.M) {
	what := os.Getenv(askEnv)
	if what == "" {
		own()
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
	id, err := own().Process(pid)
	if err != nil {
		panic(err)
	}
	fmt.Println(id)
	_, _ = io.ReadAll(os.Stdin)
	os.Exit(0)
}

// own is the view of the tests, from before one of them puts its threads elsewhere.
var own = sync.OnceValue(func() *View {
	v, err := Own()
	if err != nil {
		panic(err)
	}
	return v
})

// ask starts the test binary and returns the name it prints.
func ask(t *testing.T, what string, attr *syscall.SysProcAttr) (pid int, id procid.ID) {
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
	id, ok := procid.Parse(strings.TrimSpace(text))
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
	v := own()
	census := v.Census()
	for pid, inside := range map[int]procid.ID{pid1: inside1, pid2: inside2} {
		outside, err := v.Process(pid)
		if err != nil || outside != inside || inside.Pid != 1 {
			t.Errorf("outside it is %v, inside %v, %v", outside, inside, err)
		}
		if at, s := census.Find(inside); at != pid || s != Lives {
			t.Errorf("%v is found as pid %d, %v, not %d", inside, at, s, pid)
		}
	}
	if inside1.Is(inside2) {
		t.Errorf("two processes are %v", inside1)
	}
}

// In a time namespace start times look different (time_namespaces(7)); the name is the same but for one tick.
func TestTimeNamespace(t *testing.T) {
	want, err := own().Process(os.Getpid())
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

func TestEnded(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := own().Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	census := own().Census()
	if _, s := census.Find(id); s != Ended {
		t.Errorf("%v is found, %v", id, s)
	}
	if _, err := own().Process(cmd.Process.Pid); !errors.Is(err, &fault.Error{Code: fault.TargetGone}) {
		t.Error(err)
	}
}

func TestMounts(t *testing.T) {
	list, err := own().Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := own().Stat("/proc", &st); err != nil {
		t.Fatal(err)
	}
	isProc := func(m Mount) bool { return m.Dev == st.Dev && m.Point == "/proc" && m.Type == "proc" }
	if !slices.ContainsFunc(list, isProc) {
		t.Errorf("/proc is not among %+v", list)
	}
	m, err := parseMount(`36 35 98:300 /mnt1 /a\040b\134 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`)
	if want := (Mount{unix.Mkdev(98, 300), `/a b\`, "ext3", "/dev/root"}); err != nil || m != want {
		t.Errorf("%+v, %v", m, err)
	}
	for _, bad := range []string{"", "36 35 98:0 / /", "36 35 98 / / rw - ext3 x", "36 35 98:0 / / rw - ext3"} {
		if m, err := parseMount(bad); err == nil {
			t.Errorf("%q is %+v", bad, m)
		}
	}
}
