package ptrace

import (
	"bytes"
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStoppedAgainAtOnce stops threads right after they were let go. Now and then one has not executed an instruction
// yet and is on its way into restart_syscall; its registers must not say so, but that it is interrupted in the call
// that this continues.
func TestStoppedAgainAtOnce(t *testing.T) {
	v := startVictim(t)
	tr := New()
	defer tr.Close()
	for more := rounds(400); more(); {
		g, err := tr.Freeze(context.Background(), []int{v.cmd.Process.Pid}, patience)
		if err != nil {
			t.Fatal(err)
		}
		for _, th := range g.Threads() {
			r, err := th.Regs()
			if err != nil {
				t.Fatal(err)
			}
			insn := make([]byte, 2)
			if err := th.Peek(r.Rip, insn); err != nil {
				t.Fatal(err)
			}
			if r.Rax == unix.SYS_RESTART_SYSCALL && bytes.Equal(insn, codeSyscall) {
				t.Errorf("thread %d: orig_rax %d", th.Tid, int64(r.OrigRax))
			}
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	v.finish(t)
}
