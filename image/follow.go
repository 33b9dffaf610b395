package image

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Follows checks that a later state is of the same run of the same process tree as an earlier one: the same boot, the
// same root process, and no execve(2) of it in between. Only then do memory and dirty tracking of one say anything of
// the other. Of the later state the kernel, and of its root process Pid, Start, Execs, Exe and MM must be filled. The
// fault is E_STORE_PARENT.
func Follows(earlier, later *model.State) error {
	a, b := processOf(earlier, earlier.Root), processOf(later, later.Root)
	err := errors.New("one of them has no root process")
	if a != nil && b != nil {
		err = sameBoot(earlier, later)
		if err == nil && a.Pid != b.Pid {
			err = fmt.Errorf("it is of pid %d, not of %d", a.Pid, b.Pid)
		}
		if err == nil {
			err = sameMemory(a, b)
		}
	}
	if err != nil {
		return fault.New(fault.StoreParent, "", "%w", err)
	}
	return nil
}

// processOf returns the process with a pid, nil if there is none.
func processOf(st *model.State, pid int) *model.Process {
	for i := range st.Processes {
		if st.Processes[i].Pid == pid {
			return &st.Processes[i]
		}
	}
	return nil
}

// sameBoot checks that two states are of one run of one kernel, and that their pids are of one namespace.
func sameBoot(a, b *model.State) error {
	if a.Kernel.BootID == "" || a.Kernel.BootID != b.Kernel.BootID {
		return errors.New("the machine was booted in between, or is another one")
	}
	if a.Kernel.PidNS != b.Kernel.PidNS && a.Kernel.PidNS != 0 && b.Kernel.PidNS != 0 {
		return errors.New("it is of another pid namespace")
	}
	return nil
}

// sameMemory checks that b's memory is what became of a's: the same process without an execve, or one it forked.
func sameMemory(a, b *model.Process) error {
	switch {
	case a.Start == 0 || b.Start == 0:
		return fmt.Errorf("the start time of pid %d is not known", b.Pid)
	case a.Pid == b.Pid && a.Start != b.Start:
		return fmt.Errorf("it is of another process that had the pid %d", a.Pid)
	case a.Pid != b.Pid && b.Start < a.Start:
		return fmt.Errorf("pid %d is older than pid %d and cannot be its child", b.Pid, a.Pid)
	case a.Execs != 0 && b.Execs != 0 && a.Execs != b.Execs:
		return fmt.Errorf("pid %d has executed a program since", b.Pid)
	case a.Exe.Dev != b.Exe.Dev || a.Exe.Ino != b.Exe.Ino || a.Exe.Path != b.Exe.Path && a.Exe.Unlinked == b.Exe.Unlinked:
		return fmt.Errorf("pid %d has executed another program since", b.Pid)
	case a.MM.StartStack != b.MM.StartStack || a.MM.StartCode != b.MM.StartCode || !bytes.Equal(a.MM.Auxv, b.MM.Auxv):
		// With addresses chosen at random, and the address of 16 random bytes in the auxiliary vector, no second execve
		// has the same.
		return fmt.Errorf("pid %d has executed a program since", b.Pid)
	}
	return nil
}

// follows checks that the space s of a later state can have pages of the space from of an earlier one.
func follows(earlier *model.State, from model.Space, later *model.State, s model.Space) error {
	if err := sameBoot(earlier, later); err != nil {
		return err
	}
	if a, b := spaceProcess(earlier, from), spaceProcess(later, s); a != nil && b != nil {
		return sameMemory(a, b)
	}
	a, ok := spaceInode(earlier, from)
	if b, found := spaceInode(later, s); !ok || !found || a != b {
		return fmt.Errorf("what was space %d is not what is space %d now", from, s)
	}
	return nil
}

// spaceProcess returns the process whose memory is a space, nil if none.
func spaceProcess(st *model.State, s model.Space) *model.Process {
	for i := range st.Processes {
		if st.Processes[i].Space == s {
			return &st.Processes[i]
		}
	}
	return nil
}

// inode names a file of a running kernel.
type inode struct{ dev, ino uint64 }

// spaceInode returns the object whose content is a space.
func spaceInode(st *model.State, s model.Space) (inode, bool) {
	for i := range st.Shmems {
		if o := &st.Shmems[i]; o.Space == s {
			return inode{o.Dev, o.Ino}, true
		}
	}
	for i := range st.Unlinked {
		if o := &st.Unlinked[i]; o.Space == s {
			return inode{o.Dev, o.Ino}, true
		}
	}
	for i := range st.Named {
		if o := &st.Named[i]; o.Space == s {
			return inode{o.Dev, o.Ino}, true
		}
	}
	return inode{}, false
}
