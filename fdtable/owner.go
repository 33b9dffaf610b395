package fdtable

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Owner types of struct f_owner_ex (include/uapi/asm-generic/fcntl.h).
const (
	ownerTID  = 0 // F_OWNER_TID
	ownerPID  = 1 // F_OWNER_PID
	ownerPGRP = 2 // F_OWNER_PGRP
)

// captureOwner records who gets signals about the description (fcntl(2), F_SETOWN_EX, F_SETSIG). fd is a duplicate of
// it.
func (c *capturer) captureOwner(d *desc, fd int) error {
	own, err := getOwner(fd)
	if err != nil {
		return d.refuse(fault.FDRead, "ask for its owner: %w", err)
	}
	if own.ID == 0 && own.Signal == 0 {
		if d.Flags&unix.O_ASYNC != 0 {
			d.Owner = model.FOwner{}
		}
		return nil
	}
	if own.ID != 0 && !c.inTree(own) {
		return d.refuse(fault.FDState, "its signals (F_SETOWN) go to %s, which is not in the tree", ownerText(own))
	}
	d.Owner = own
	return nil
}

// inTree tells whether the owner is a thread, process or process group of the tree.
func (c *capturer) inTree(own model.FOwner) bool {
	for i := range c.st.Processes {
		p := &c.st.Processes[i]
		switch own.Type {
		case ownerPID:
			if p.Pid == own.ID {
				return true
			}
		case ownerPGRP:
			if p.Pgid == own.ID {
				return true
			}
		case ownerTID:
			for j := range p.Threads {
				if p.Threads[j].Tid == own.ID {
					return true
				}
			}
		}
	}
	return false
}

// ownerSteps are what a process has to do so that signals about fd reach the recorded owner with its own credentials.
func ownerSteps(f *model.File, fd int) []Step {
	var steps []Step
	if f.Owner.ID != 0 {
		data := binary.NativeEndian.AppendUint32(nil, uint32(f.Owner.Type))
		data = binary.NativeEndian.AppendUint32(data, uint32(f.Owner.ID))
		steps = append(steps, fcntlStep(fd, unix.F_SETOWN_EX, data, "set the owner of "+fileObject(f)))
	}
	if f.Owner.Signal != 0 {
		s := fcntlStep(fd, unix.F_SETSIG, nil, "set the signal of "+fileObject(f))
		s.Args = append(s.Args, uint64(f.Owner.Signal))
		steps = append(steps, s)
	}
	if f.Flags&unix.O_ASYNC != 0 {
		s := fcntlStep(fd, unix.F_SETFL, nil, "set O_ASYNC of "+fileObject(f))
		s.Args = append(s.Args, uint64(f.Flags&(settable|unix.O_ASYNC)))
		steps = append(steps, s)
	}
	return steps
}

func fcntlStep(fd, cmd int, data []byte, want string) Step {
	return Step{Call: unix.SYS_FCNTL, Args: []uint64{uint64(fd), uint64(cmd)}, Data: data, Want: want}
}
