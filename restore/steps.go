package restore

import (
	"fmt"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// action is how a step is done. What it makes it registers with onUndo and onEnd as it goes: a step that fails half-way
// leaves nothing either.
type action struct {
	phase string
	do    func(r *restorer, s plan.Step) error
}

// actions says how each op of a plan is done.
func actions() map[plan.Op]action {
	return map[plan.Op]action{
		plan.OpServer: {phasePlan, func(r *restorer, _ plan.Step) error { return r.later.take() }},
		plan.OpShmem:  {phaseFiles, func(r *restorer, s plan.Step) error { return r.objects.shmem(s.Index) }},
		plan.OpGhost:  {phaseFiles, func(r *restorer, s plan.Step) error { return r.objects.ghost(s.Index) }},
		plan.OpNamed:  {phaseFiles, func(r *restorer, _ plan.Step) error { return r.named.open() }},
		plan.OpMapped: {
			phaseFiles,
			func(r *restorer, s plan.Step) error { return r.mapped.openOf(r.record(s.Pid), s.Index) },
		},
		plan.OpDescription: {phaseFiles, func(r *restorer, s plan.Step) error { return r.descriptors.open(s.Index) }},
		plan.OpStub:        {phaseCreate, whole((*restorer).startStub)},
		plan.OpBirth: {
			phaseCreate,
			func(r *restorer, s plan.Step) error { return r.tree.birth(r.plan.Births.Steps[s.Index]) },
		},
		plan.OpZombie:      {phaseCreate, inside(func(_ *restorer, p *process) error { return p.die() })},
		plan.OpStubEnd:     {phaseCreate, func(r *restorer, _ plan.Step) error { return r.tree.stub.end() }},
		plan.OpSpace:       {phaseSpace, inside(func(r *restorer, p *process) error { return r.spaces.build(p) })},
		plan.OpSeal:        {phaseSpace, func(r *restorer, _ plan.Step) error { return r.objects.sealLate() }},
		plan.OpFill:        {phaseMemory, inside(func(r *restorer, p *process) error { return r.memory.fill(p) })},
		plan.OpProtect:     {phaseSpace, inside(func(r *restorer, p *process) error { return r.spaces.finish(p) })},
		plan.OpLazy:        {phaseMemory, inside(func(r *restorer, p *process) error { return r.later.arm(p) })},
		plan.OpFDs:         {phaseFiles, inside(func(r *restorer, p *process) error { return r.descriptors.give(p) })},
		plan.OpThreads:     {phaseThreads, inside(func(_ *restorer, p *process) error { return p.makeThreads() })},
		plan.OpProcess:     {phaseThreads, inside((*restorer).setProcessState)},
		plan.OpThreadState: {phaseThreads, inside((*restorer).setThreadState)},
		plan.OpFinish:      {phaseFinalise, inside((*restorer).finalise)},
		plan.OpNamedCommit: {phaseFinalise, func(r *restorer, _ plan.Step) error { return r.named.commit() }},
		plan.OpFileCommit:  {phaseFinalise, whole((*restorer).commitFiles)},
		plan.OpServe:       {phaseRelease, func(r *restorer, _ plan.Step) error { return r.later.commit() }},
		plan.OpRelease:     {phaseRelease, whole((*restorer).release)},
	}
}

// whole is an action that knows by itself what it is about.
func whole(do func(*restorer) error) func(*restorer, plan.Step) error {
	return func(r *restorer, _ plan.Step) error { return do(r) }
}

// inside is an action for one process.
func inside(do func(*restorer, *process) error) func(*restorer, plan.Step) error {
	return func(r *restorer, s plan.Step) error {
		p := r.tree.byPid[s.Pid]
		if p == nil {
			return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", s.Pid),
				"a step of the plan comes before it is made: %s", s.Text)
		}
		return do(r, p)
	}
}

// execute does one step.
func (r *restorer) execute(s plan.Step) error {
	a, ok := r.actions[s.Op]
	if !ok {
		return fault.New(fault.RestoreState, string(s.Op), "nobody knows how to do this step of the plan")
	}
	if r.phase != a.phase {
		r.enter(a.phase)
	}
	return a.do(r, s)
}

// record is the record of a process that lives.
func (r *restorer) record(pid int) *model.Process {
	for i := range r.st.Processes {
		if r.st.Processes[i].Pid == pid {
			return &r.st.Processes[i]
		}
	}
	panic("restore: a process of the plan is not in the image")
}

func (r *restorer) startStub() error {
	if err := r.tree.start(); err != nil {
		return err
	}
	return r.clocks.set(r.tree.stub.process)
}

// commitFiles does the last things to files, which cannot be taken back.
func (r *restorer) commitFiles() error {
	if err := r.j.step("commit descriptors"); err != nil {
		return err
	}
	if err := r.objects.setTimes(); err != nil {
		return err
	}
	return r.descriptors.commit()
}
