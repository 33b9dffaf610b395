package ptrace

import (
	"context"
	"encoding/binary"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A call without a timeout goes on after a stop, whoever ends it: we, or our own death. A signal that is handled still
// ends it.
func TestWaitsGoOn(t *testing.T) {
	for _, call := range []string{"epoll", "sigwait"} {
		t.Run(call, func(t *testing.T) {
			v := run(t, exec.Command(compiled(t, "waiter"), call))
			pid := v.cmd.Process.Pid
			for i := range 20 {
				tr := New()
				g, err := tr.Freeze(context.Background(), []int{pid}, patience)
				if err != nil {
					t.Fatal(err)
				}
				if i%2 == 0 {
					if err := g.Thaw(); err != nil {
						t.Fatal(err)
					}
				}
				tr.Close() // as our death does, if it still traces
			}
			v.finish(t)
		})
	}
}

// deadline is a Deadlines that says the same of everybody.
type deadline int64

func (d deadline) Deadline(int, int64) (int64, bool) { return int64(d), d != 0 }

// polling runs a program that waits for an hour in epoll_wait or epoll_pwait; await returns when it is there, at first
// and again.
func polling(t *testing.T) (pid int, await func()) {
	t.Helper()
	v := run(t, exec.Command("python3", "-uc", "import select; p = select.epoll(); print('ready'); p.poll(3600)"))
	pid = v.cmd.Process.Pid
	await = func() {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			if b := procWord(pid, "syscall", 0); b == "232" || b == "281" {
				return
			}
			if time.Now().After(end) {
				t.Fatal("it does not get there, or has ended")
			}
		}
	}
	await()
	return pid, await
}

// A call with a timeout is made again with what is left of it, if that is known; else, and if we die, it ends.
func TestTimedWait(t *testing.T) {
	pid, await := polling(t)
	tr := New()
	defer tr.Close()
	tr.Deadlines = deadline(monotonic() + 1800e9)
	g, err := tr.Freeze(context.Background(), []int{pid}, patience)
	if err != nil {
		t.Fatal(err)
	}
	th := g.Threads()[0]
	r, err := th.Regs()
	if err != nil {
		t.Fatal(err)
	}
	if !r.InTimedWait() || r.R10 != 3600_000 {
		t.Fatalf("it is in system call %d with timeout %d and result %d", int64(r.OrigRax), r.R10, int64(r.Rax))
	}
	left, room, ok := g.Wait(th)
	if !ok || room != 0 || left > 1800e9 || left < 1700e9 {
		t.Fatalf("it goes on: %v, for %v", ok, time.Duration(left))
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	await()
	tr.Deadlines = nil
	if g, err = tr.Freeze(context.Background(), []int{pid}, patience); err != nil {
		t.Fatal(err)
	}
	if r, err = g.Threads()[0].Regs(); err != nil || r.R10 > 1800_000 || r.R10 < 1700_000 {
		t.Errorf("its timeout is %d ms now (%v)", r.R10, err)
	}
	if _, _, ok := g.Wait(g.Threads()[0]); ok {
		t.Error("it goes on, for an unknown time")
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
}

// What was foreseen of a program holds while its code is what it was, and is found out anew when it is not.
func TestForesee(t *testing.T) {
	pid, await := polling(t)
	tr := New()
	defer tr.Close()
	tr.Foresee([]int{pid})
	if len(tr.calls) != 0 {
		t.Fatal("it looks though nobody can tell how long a call would wait")
	}
	tr.Deadlines = deadline(monotonic() + 1800e9)
	if tr.Foresee([]int{pid}); len(tr.calls) != 1 {
		t.Fatalf("it foresees %v", tr.calls)
	}
	ask := func() bool {
		await()
		g, err := tr.Freeze(context.Background(), []int{pid}, patience)
		if err != nil {
			t.Fatal(err)
		}
		_, _, ok := g.Wait(g.Threads()[0])
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for key, call := range tr.calls {
		if !call.unused || !call.code.stays() {
			t.Fatalf("foreseen: %+v", call)
		}
		if !ask() {
			t.Error("what was foreseen is not used")
		}
		call.code.text[0]++
		if call.code.stays() || !ask() {
			t.Error("other code is not looked at again")
		}
		tr.calls[key] = afterCall{}
		if ask() {
			t.Error("it was foreseen that the call cannot go on, and it does")
		}
	}
}

// What registers of an interrupted call become: rounded up to what the call takes, never less than nothing.
func TestGoOn(t *testing.T) {
	interrupted := int64(resultEINTR)
	regs := func(nr uint64) Regs {
		return Regs{Rax: uint64(interrupted), OrigRax: nr, Cs: userCS, R10: 5000, Rdx: 5000}
	}
	for _, c := range []struct {
		nr   uint64
		left int64
		ms   uint64
		text []uint64 // seconds and nanoseconds
	}{
		{unix.SYS_EPOLL_WAIT, 1, 1, nil},
		{unix.SYS_EPOLL_PWAIT, 1_000_001, 2, nil},
		{unix.SYS_EPOLL_WAIT, -5, 0, nil},
		{unix.SYS_EPOLL_PWAIT2, 2_000_000_003, 0, []uint64{2, 3}},
		{unix.SYS_SEMTIMEDOP, -1, 0, []uint64{0, 0}},
		{unix.SYS_RT_SIGTIMEDWAIT, 7, 0, []uint64{0, 7}},
	} {
		r := regs(c.nr)
		text := r.GoOn(c.left, 0x7000)
		if int64(r.Rax) != restartNoHand || r.OrigRax != c.nr {
			t.Errorf("call %d: rax %d, orig_rax %d", c.nr, int64(r.Rax), r.OrigRax)
		}
		if c.text == nil {
			if text != nil || r.R10 != c.ms {
				t.Errorf("call %d: %d ms of %d ns, want %d", c.nr, r.R10, c.left, c.ms)
			}
			continue
		}
		at := r.R10
		if c.nr == unix.SYS_RT_SIGTIMEDWAIT {
			at = r.Rdx
		}
		if at != 0x7000 || len(text) != 16 || binary.LittleEndian.Uint64(text) != c.text[0] ||
			binary.LittleEndian.Uint64(text[8:]) != c.text[1] {
			t.Errorf("call %d: % x at %#x", c.nr, text, at)
		}
	}
	if r := regs(unix.SYS_READ); r.InTimedWait() || r.GoOn(1, 0) != nil || int64(r.Rax) != interrupted {
		t.Error("read is taken for a wait")
	}
}

// What code may follow a call whose timeout is changed.
func TestDeadAfter(t *testing.T) {
	for _, c := range []struct {
		name     string
		code     string
		r10, rdx bool // dead
	}{
		{"ret", "\xc3", true, true},
		{
			"cmp rax; ja over; ret; mov rdx,[rip]; neg eax; mov fs:[rdx],eax; ret",
			"\x48\x3d\x00\xf0\xff\xff\x77\x01\xc3\x48\x8b\x15\x00\x00\x00\x00\xf7\xd8\x64\x89\x02\xc3", true, true,
		},
		{"mov eax,r10d; ret", "\x44\x89\xd0\xc3", false, true},
		{"mov rax,[rdx]; ret", "\x48\x8b\x02\xc3", true, false},
		{"xor edx,edx; mov rax,[rdx]; ret", "\x31\xd2\x48\x8b\x02\xc3", true, true},
		{"mov dl,1; mov eax,edx; ret", "\xb2\x01\x89\xd0\xc3", true, false},
		{"jmp back to a syscall", "\x0f\x05\xeb\xfc", false, false},
		{"jmp to itself", "\xeb\xfe", true, true},
		{"call over a ret to one", "\xe8\x01\x00\x00\x00\xc3\xc3", true, true},
		{"call of what reads rdx", "\xe8\x01\x00\x00\x00\xc3\x89\xd0\xc3", true, false},
		{"call through a register", "\xff\xd0\xc3", false, false},
		{"endbr64; ret", "\xf3\x0f\x1e\xfa\xc3", true, true},
		{"je to a read; ret", "\x74\x01\xc3\x44\x89\xd0\xc3", false, true},
		{"cqo; ret", "\x48\x99\xc3", false, false},
		{"beyond the code", "\x90\x90", false, false},
	} {
		const base = 0x1000
		read := func(at uint64, b []byte) int {
			if at < base || at > base+uint64(len(c.code)) {
				return 0
			}
			return copy(b, c.code[at-base:])
		}
		if got := deadAfter(read, base, registerR10); got != c.r10 {
			t.Errorf("%s: r10 dead: %v", c.name, got)
		}
		if got := deadAfter(read, base, registerRdx); got != c.rdx {
			t.Errorf("%s: rdx dead: %v", c.name, got)
		}
	}
}
