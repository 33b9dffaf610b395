package restore

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// This file makes the stub one that has inherited nothing: every process of the tree is a copy of it, and an image
// names only what differs from the kernel's own defaults. Whoever started us may have had us ignore signals (nohup,
// trap '' in a shell), merge pages or do without huge ones, round timers, and more: none of it is the tree's.

// inherited is an attribute that outlives fork(2) and execve(2).
type inherited struct {
	what string
	get  func() (value int, ok bool) // of the calling thread; !ok where the kernel does not have it
	none int                         // what get gives of a process that has inherited nothing
	nr   uint64
	args []uint64 // the call that makes it none
}

// prctlGet asks with prctl(2); what the kernel does not know is no value.
func prctlGet(args ...uintptr) func() (int, bool) {
	return func() (int, bool) {
		var a [5]uintptr
		copy(a[:], args)
		v, err := unix.PrctlRetInt(int(a[0]), a[1], a[2], a[3], a[4])
		return v, err == nil
	}
}

// Commands that golang.org/x/sys/unix lacks (include/uapi/linux/prctl.h).
const (
	prGetTHPDisable  = 42
	prGetIOFlusher   = 58
	prGetMemoryMerge = 68
	mceKillClear     = 0
)

func inheritedAttributes() []inherited {
	list := []inherited{
		{"use huge pages", prctlGet(prGetTHPDisable), 0, unix.SYS_PRCTL, []uint64{prSetTHPDisable, 0, 0, 0, 0}},
		{
			"leave equal pages alone", prctlGet(prGetMemoryMerge), 0, unix.SYS_PRCTL,
			[]uint64{prSetMemoryMerge, 0, 0, 0, 0},
		},
		{
			"take the default timer slack", prctlGet(unix.PR_GET_TIMERSLACK), defaultSlack, unix.SYS_PRCTL,
			[]uint64{unix.PR_SET_TIMERSLACK, defaultSlack},
		},
		{
			"take the default machine check policy", prctlGet(unix.PR_MCE_KILL_GET), mceKillDefault, unix.SYS_PRCTL,
			[]uint64{unix.PR_MCE_KILL, mceKillClear, 0, 0, 0},
		},
		{"be no I/O flusher", prctlGet(prGetIOFlusher), 0, unix.SYS_PRCTL, []uint64{prSetIOFlusher, 0, 0, 0, 0}},
	}
	for which := uint64(0); which <= unix.PR_SPEC_L1D_FLUSH; which++ {
		list = append(list, inherited{
			fmt.Sprintf("allow speculation %d", which),
			func() (int, bool) {
				v, err := unix.PrctlRetInt(unix.PR_GET_SPECULATION_CTRL, uintptr(which), 0, 0, 0)
				return v & unix.PR_SPEC_DISABLE, err == nil && v&unix.PR_SPEC_PRCTL != 0
			},
			0, unix.SYS_PRCTL,
			[]uint64{unix.PR_SET_SPECULATION_CTRL, which, unix.PR_SPEC_ENABLE, 0, 0},
		})
	}
	return list
}

// inheritedHere lists what the calling thread has that a process which inherited nothing would not have.
func inheritedHere() []inherited {
	var list []inherited
	for _, a := range inheritedAttributes() {
		if v, ok := a.get(); ok && v != a.none {
			list = append(list, a)
		}
	}
	return list
}

// tellConfined tells of what we are confined by and the tree was not, which nothing takes off again.
func tellConfined(j *journal, v *view.View, processes []model.Process) error {
	own, err := v.Mine().Status()
	if err != nil {
		return err
	}
	for i := range processes {
		for k := range processes[i].Threads {
			if th := &processes[i].Threads[k]; own.NoNewPrivs && !th.NoNewPrivs {
				j.note("pid %d gains no privileges by execve any more (no_new_privs): the restore was started that way",
					processes[i].Pid)
				break
			}
		}
	}
	if own.Seccomp != 0 {
		j.note("the seccomp filters that the restore was started under hold for the restored processes too")
	}
	return nil
}
