package restore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// birth does one step of the making of the tree.
func (r *restorer) birth(s plan.BirthStep) (err error) {
	of := func(i int) *process {
		if i == plan.TheStub {
			return r.stub
		}
		return r.made[i]
	}
	switch p := of(s.Who); s.Do {
	case plan.ActFork:
		r.made[s.Who], err = r.create(of(s.By), s.Who)
	case plan.ActSession:
		_, err = p.call("setsid", unix.SYS_SETSID)
	case plan.ActAdopt:
		err = r.adopt(p, of(s.By), of(s.Parent))
	case plan.ActLead:
		_, err = p.call("setpgid", unix.SYS_SETPGID, 0, 0)
	case plan.ActJoin:
		_, err = p.call("setpgid", unix.SYS_SETPGID, 0, uint64(r.groupID(s.Group)))
	case plan.ActEnd:
		err = r.endHelper(p, of(s.By))
	case plan.ActFill:
		err = r.bequeath(p, s.Who)
	}
	return err
}

// groupID is the id of a group as processes of the tree see it; 0 stands for that of the stub.
func (r *restorer) groupID(group int) int {
	if group != 0 {
		return group
	}
	pgid, err := unix.Getpgid(r.stub.pid)
	if err != nil {
		return 0
	}
	return pgid
}

// create makes process or helper i of the plan with clone3(2) in by.
func (r *restorer) create(by *process, i int) (*process, error) {
	k := &r.plan.Births.Kin[i]
	if k.Pid == 0 {
		return r.createAny(by)
	}
	rec := &model.Process{Pid: k.Pid}
	if k.Rec != nil {
		rec = k.Rec
	}
	var flags uint64
	exitSignal := uint64(rec.ExitSignal)
	if r.plan.Births.Sibling(i) && !r.pidNS { // the init of a namespace must be the parent of the root
		flags, exitSignal = unix.CLONE_PARENT, 0 // clone3 refuses one: it is the stub's, SIGCHLD
	}
	if r.plan.Births.Sibling(i) && by != r.stub {
		flags, exitSignal = unix.CLONE_PARENT, 0
	}
	p, err := r.clone(by, rec, flags, exitSignal)
	if err != nil {
		return nil, err
	}
	if k.Rec == nil {
		r.helpers = append(r.helpers, p)
		return p, nil
	}
	r.procs[i] = p
	r.byPid[rec.Pid] = p
	return p, nil
}

// createAny makes a helper that may have any id but those that the image needs. One that gets such an id all the same
// is held until another has another.
func (r *restorer) createAny(by *process) (*process, error) {
	want := r.wantedIDs()
	var spare []*process
	for {
		p, err := r.clone(by, &model.Process{}, 0, 0)
		if err != nil {
			return nil, err
		}
		r.helpers = append(r.helpers, p)
		if !want[p.rec.Pid] {
			for _, s := range spare {
				if err := r.endHelper(s, by); err != nil {
					return nil, err
				}
			}
			return p, nil
		}
		spare = append(spare, p)
	}
}

// clone makes a copy of by for rec, with the id that rec names; if that is 0 it is filled in.
func (r *restorer) clone(by *process, rec *model.Process, flags, exitSignal uint64) (*process, error) {
	at := stackOf(by)
	setTid := at + 128
	if rec.Pid == 0 {
		setTid = 0
	}
	args := cloneArgs(flags, exitSignal, setTid)
	binary.LittleEndian.PutUint32(args[128:], uint32(rec.Pid))
	if err := by.lead.Poke(at, args); err != nil {
		return nil, err
	}
	if err := r.j.step(fmt.Sprintf("create pid %d", rec.Pid)); err != nil {
		return nil, err
	}
	id, err := by.lead.CallNew(by.insn(), unix.SYS_CLONE3, at, cloneArgsSize)
	if err != nil {
		return nil, r.createFault(rec.Pid, err)
	}
	lead, err := r.tr.Adopt(id, id)
	if err != nil {
		return nil, err
	}
	p := &process{j: r.j, rec: rec, pid: id, lead: lead}
	if rec.Pid == 0 {
		own, err := p.call("ask for its id", unix.SYS_GETPID)
		if err != nil {
			r.helpers = append(r.helpers, p)
			return nil, err
		}
		rec.Pid = int(own)
	}
	return p, nil
}

// adopt ends a helper and gives its child to another parent, which is a subreaper for that moment.
func (r *restorer) adopt(helper, by, parent *process) error {
	_, err := parent.call("become a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	if err != nil {
		return err
	}
	if err := r.endHelper(helper, by); err != nil {
		return err
	}
	_, err = parent.call("be no subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	return err
}

// endHelper ends a helper; its maker waits for it. It has no exit signal, so nothing else tells of its end.
func (r *restorer) endHelper(helper, by *process) error {
	if err := r.j.step("end a helper"); err != nil {
		return err
	}
	regs, err := helper.lead.Regs()
	if err != nil {
		return err
	}
	regs.SetCall(helper.insn(), unix.SYS_EXIT_GROUP, 0)
	if err := helper.lead.SetRegs(&regs); err != nil {
		return err
	}
	if err := helper.lead.Release(); err != nil {
		return err
	}
	if by == r.stub && !r.pidNS {
		reap(helper.pid) // it is our child, made with CLONE_PARENT
	} else if _, err = by.call("wait for a helper", unix.SYS_WAIT4, uint64(helper.rec.Pid), 0, unix.WALL,
		0); err != nil {
		return err
	}
	r.helpers = slices.DeleteFunc(r.helpers, func(p *process) bool { return p == helper })
	return nil
}
