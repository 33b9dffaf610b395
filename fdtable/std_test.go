package fdtable

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// nowhere is the policy of restore --detach.
var nowhere = policy.Policy{policy.Std: policy.Null, policy.Terminal: policy.Null}

// asStd renumbers the descriptors of a state to the standard streams nums, whatever they are in this process, and
// captures it.
func asStd(t *testing.T, fds, nums []int) (*model.State, []*fault.Error) {
	t.Helper()
	st := stateOf(t, fds...)
	for i := range st.Processes[0].FDs {
		st.Processes[0].FDs[i].Num = nums[i]
	}
	for i := range st.Files {
		// what /proc says of our own descriptors with these numbers is about others, or nothing
		st.Files[i].Unlocked = true
	}
	dup := func(pid, fd int) (int, error) {
		for i, n := range nums {
			if n == fd {
				fd = fds[i]
				break
			}
		}
		return dupOwn(pid, fd)
	}
	in := Input{State: st, View: here(), FD: dup}
	faults := Capture(context.Background(), in)
	return st, append(faults, Finish(context.Background(), in)...)
}

func accepted(t *testing.T, faults []*fault.Error) {
	t.Helper()
	for _, f := range faults {
		t.Fatalf("refused: %v", f)
	}
}

// pty makes a pseudo-terminal and returns our side and the program's.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	must(t, err)
	s, err := os.OpenFile(filepath.Join("/dev/pts", itoa(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	t.Cleanup(func() { _, _ = m.Close(), s.Close() })
	return m, s
}

func pipeFiles(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func ino(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	return st.Ino
}

// A pipe to someone outside that is standard output becomes the restore command's standard output.
func TestStdPipe(t *testing.T) {
	r, w := pipeFiles(t)
	sleeper(t, r)
	st, faults := asStd(t, []int{int(w.Fd())}, []int{1})
	accepted(t, faults)
	if f := st.Files[0]; f.Std != 2 || f.Pipe != 0 || len(st.Pipes) != 0 {
		t.Fatalf("recorded as %+v, pipes %v", f, st.Pipes)
	}
	newR, newW := pipeFiles(t)
	st.Files[0].Flags |= unix.O_NONBLOCK
	table := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Std: [3]*os.File{nil, newW, nil}})
	_, err := unix.Write(table.FDFor(1, 1), []byte("out"))
	must(t, err)
	got := make([]byte, 10)
	if n, _ := newR.Read(got); string(got[:n]) != "out" {
		t.Errorf("got %q", got[:n])
	}
	if flags, _ := unix.FcntlInt(uintptr(table.FD(1)), unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 {
		t.Error("O_NONBLOCK is lost")
	}
	detached := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Std: [3]*os.File{nil, newW, nil}, Policy: nowhere})
	if p := pathOf(t, detached.FDFor(1, 1)); p != os.DevNull {
		t.Errorf("detached it is %s", p)
	}
}

// A pipe that only the tree holds is the tree's own, also as a standard stream: what is in it is not lost.
func TestStdPipeInside(t *testing.T) {
	fds := pipeWith(0, "rest of the input")(t, "")
	must(t, unix.Close(fds[1]))
	defer func() { _ = unix.Close(fds[0]) }()
	st, faults := asStd(t, fds[:1], []int{0})
	accepted(t, faults)
	if f := st.Files[0]; f.Std != 0 || f.Pipe != 1 || string(st.Pipes[0].Data) != "rest of the input" {
		t.Fatalf("recorded as %+v, pipes %v", f, st.Pipes)
	}
}

// A child that was made after the tree stood still has the pipe from its parent: nobody outside has it.
func TestPipeOfLaterChild(t *testing.T) {
	r, w := pipeFiles(t)
	child := exec.Command("sh", "-c", "sleep 60; true")
	child.ExtraFiles = []*os.File{w}
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, child.Start())
	t.Cleanup(func() { _, _ = unix.Kill(-child.Process.Pid, unix.SIGKILL), child.Wait() })
	st, faults := asStd(t, []int{int(r.Fd()), int(w.Fd())}, []int{7, 1})
	accepted(t, faults)
	if len(st.Pipes) != 1 || st.Files[0].Std != 0 || st.Files[1].Std != 0 {
		t.Errorf("recorded as %+v, pipes %v", st.Files, st.Pipes)
	}
}

// Both ends in the tree and one outside: neither re-attaching nor rebuilding would be right.
func TestStdPipeBothSides(t *testing.T) {
	r, w := pipeFiles(t)
	sleeper(t, w)
	_, faults := asStd(t, []int{int(r.Fd()), int(w.Fd())}, []int{7, 1})
	if len(faults) != 2 {
		t.Fatalf("faults: %v", faults)
	}
	mustFault(t, faults[0], fault.FDPipe, "fd 7 of pid", "sleep")
	mustFault(t, faults[1], fault.FDPipe, "fd 1 of pid", "sleep")
}

func TestStdSocket(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) }()
	st, faults := asStd(t, fds[:1], []int{2})
	accepted(t, faults)
	if st.Files[0].Std != 3 {
		t.Fatalf("recorded as %+v", st.Files[0])
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	must(t, err)
	defer func() { _ = out.Close() }()
	table := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Std: [3]*os.File{nil, nil, out}})
	_, err = unix.Write(table.FDFor(1, 2), []byte("12345"))
	must(t, err)
	if pos, _ := out.Seek(0, unix.SEEK_CUR); pos != 5 {
		t.Errorf("the position is not shared with the command's stream: %d", pos)
	}
}

// At a shell prompt the three streams share one description; whoever redirects one of restore's means that one.
func TestStdTerminalSplit(t *testing.T) {
	_, slave := pty(t)
	fd := int(slave.Fd())
	st, faults := asStd(t, []int{fd, fd, fd, fd}, []int{0, 1, 2, 10})
	accepted(t, faults)
	if len(st.Files) != 1 || st.Files[0].Std != 1 || st.Files[0].Kind != kindTTY || len(st.Terminals) != 1 {
		t.Fatalf("recorded as %+v", st.Files)
	}
	_, newSlave := pty(t)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	must(t, err)
	defer func() { _ = out.Close() }()
	table := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Std: [3]*os.File{newSlave, out, newSlave}})
	tty := ino(t, int(newSlave.Fd()))
	for num, want := range map[int]uint64{0: tty, 1: ino(t, int(out.Fd())), 2: tty, 10: tty} {
		if got := ino(t, table.FDFor(1, num)); got != want {
			t.Errorf("descriptor %d leads to inode %d, want %d", num, got, want)
		}
	}
	if table.FDFor(1, 0) != table.FDFor(1, 2) || table.FDFor(1, 0) != table.FDFor(1, 10) {
		t.Error("streams on one terminal no longer share a description")
	}
}

// Modes are put back only in the foreground, which a test is not; the size is put back only where nobody has set one.
func TestTerminalRecord(t *testing.T) {
	_, slave := pty(t)
	fd := int(slave.Fd())
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	must(t, err)
	tio.Lflag &^= unix.ECHO | unix.ICANON
	must(t, unix.IoctlSetTermios(fd, unix.TCSETS2, tio))
	must(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 111}))
	st, faults := asStd(t, []int{fd}, []int{0})
	accepted(t, faults)
	term := st.Terminals[0]
	got, err := decodeTermios(term.Termios)
	must(t, err)
	if *got != *tio || term.Rows != 33 || term.Cols != 111 || term.Rdev != st.Files[0].Rdev {
		t.Errorf("recorded %+v %+v, want %+v", term, got, tio)
	}
	_, other := pty(t)
	before, err := unix.IoctlGetTermios(int(other.Fd()), unix.TCGETS2)
	must(t, err)
	table := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Std: [3]*os.File{other, nil, nil}})
	_, err = table.Commit()
	must(t, err)
	after, err := unix.IoctlGetTermios(int(other.Fd()), unix.TCGETS2)
	must(t, err)
	if *before != *after {
		t.Error("a terminal of which we are not in the foreground was changed")
	}
}

// capturedOn captures a terminal that is the controlling one of the tree.
func capturedOn(t *testing.T, tty *os.File) (*model.State, []*fault.Error) {
	t.Helper()
	in := Input{State: stateOf(t, int(tty.Fd())), View: here()}
	in.State.Processes[0].TTY = uint32(in.State.Files[0].Rdev)
	return in.State, append(Capture(context.Background(), in), Finish(context.Background(), in)...)
}

// A terminal at another descriptor becomes the controlling terminal, or a standard stream that is a terminal, or
// nothing.
func TestTerminalElsewhere(t *testing.T) {
	if tty, err := unix.Open("/dev/tty", unix.O_RDWR, 0); err == nil {
		_ = unix.Close(tty)
		t.Log("this test process has a controlling terminal: only --detach is tested")
	}
	_, slave := pty(t)
	_, faults := captured(t, int(slave.Fd()))
	if len(faults) != 1 {
		t.Fatalf("faults: %v", faults)
	}
	mustFault(t, faults[0], fault.FDDevice, "neither the controlling terminal")
	st, faults := capturedOn(t, slave)
	accepted(t, faults)
	detached := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Policy: nowhere})
	if p := pathOf(t, detached.FD(1)); p != os.DevNull {
		t.Errorf("detached it is %s", p)
	}
	if tty, err := unix.Open("/dev/tty", unix.O_RDWR, 0); err == nil {
		_ = unix.Close(tty)
		return
	}
	_, other := pty(t)
	table := rebuilt(t, st, keep(t, st), t.TempDir(), RebuildOptions{Std: [3]*os.File{nil, other, nil}})
	if ino(t, table.FD(1)) != ino(t, int(other.Fd())) {
		t.Error("it is not the terminal of standard output")
	}
	_, err := rebuild(context.Background(), st, t.TempDir(), "id", RebuildOptions{})
	mustFault(t, err, fault.FDRebuild, "terminal", "--detach")
}

// A terminal whose window was closed has no modes to record.
func TestTerminalHungUp(t *testing.T) {
	master, slave := pty(t)
	must(t, master.Close())
	st, faults := asStd(t, []int{int(slave.Fd())}, []int{0})
	accepted(t, faults)
	if st.Files[0].Std != 1 || st.Files[0].Term != 0 || len(st.Terminals) != 0 {
		t.Errorf("recorded as %+v, %+v", st.Files[0], st.Terminals)
	}
	_, faults = capturedOn(t, slave)
	if len(faults) != 1 {
		t.Fatalf("faults: %v", faults)
	}
	mustFault(t, faults[0], fault.FDState, "hung up")
}

// Two processes of the tree that talk over a pair of sockets as their standard streams cannot be saved.
func TestStdSocketPairInside(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	other, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer func() {
		for _, fd := range append(fds[:], other[:]...) {
			_ = unix.Close(fd)
		}
	}()
	if _, err := unixPeer(uint32(ino(t, fds[0]))); err != nil {
		// no unix_diag in this kernel: they may be each other's
		_, faults := asStd(t, []int{fds[0], other[0]}, []int{0, 1})
		if len(faults) != 2 {
			t.Fatalf("faults: %v", faults)
		}
		mustFault(t, faults[0], fault.FDSocket, "unix_diag")
		return
	}
	_, faults := asStd(t, []int{fds[0], other[0]}, []int{0, 1})
	accepted(t, faults)
	_, faults = asStd(t, []int{fds[0], fds[1]}, []int{0, 1})
	if len(faults) != 2 {
		t.Fatalf("faults: %v", faults)
	}
	mustFault(t, faults[0], fault.FDSocket, "connected to fd 1 of pid")
}

func TestParsePeer(t *testing.T) {
	for _, bad := range [][]byte{
		nil, make([]byte, 15), make([]byte, 16),
		{200, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if _, err := parsePeer(bad, 1); err == nil {
			t.Errorf("%x is taken", bad)
		}
	}
}

// A redirected standard stream goes on in ours if ours is the same file and stands where it stood, or was cut short by
// the shell that redirected us; otherwise it is opened by name.
func TestStdFileGoesOn(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(name, []byte("123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	std, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer std.Close()
	st, err := std.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	f := model.File{ID: 1, Kind: kindRegular, Pos: 9, Size: 9, Dev: sys.Dev, Ino: sys.Ino, Path: name}
	state := &model.State{Processes: []model.Process{{FDs: []model.FD{{Num: 1, File: 1}}}}}
	goesOn := func() *os.File {
		o := RebuildOptions{Std: [3]*os.File{nil, std, nil}}
		return (&builder{st: state, o: o, streams: host.Streams(o.Std)}).goesOn(&f)
	}
	if goesOn() != nil {
		t.Error("ours stands at the beginning of the file and is taken")
	}
	if _, err := std.Seek(9, 0); err != nil {
		t.Fatal(err)
	}
	if goesOn() == nil {
		t.Error("ours stands where the stream stood and is not taken")
	}
	if err := errors.Join(std.Truncate(0), func() error { _, err := std.Seek(0, 0); return err }()); err != nil {
		t.Fatal(err)
	}
	if goesOn() == nil {
		t.Error("ours was cut short and is not taken")
	}
	f.Ino++
	if goesOn() != nil {
		t.Error("another file is taken")
	}
}
