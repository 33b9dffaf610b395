package restore

import (
	"fmt"
	"os"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// made is what the steps of a restore make: each thing knows of the others what is handed to it here, and all know the
// journal.
type made struct {
	objects     *objects
	named       *namedFiles
	mapped      *mappedFiles
	descriptors *descriptors
	clocks      *clocks
	tree        *tree
	spaces      *spaces
	memory      *memory
	later       *laterPages // nil without a server of pages
	attributes  *attributes
	finisher    *finisher
}

// newMade gets ready to make what a plan says. st is a workingState.
func newMade(j *journal, v *view.View, img *image.Reader, st *model.State, o Options, p *plan.Plan, pidNS bool) *made {
	c := content{ctx: j.ctx, img: img}
	m := &made{
		objects: &objects{j: j, content: c, st: st, temps: map[int]*os.File{}},
		named:   &namedFiles{j: j, content: c, st: st},
		clocks:  &clocks{view: v, kernel: &st.Kernel},
	}
	h := &handover{j: j}
	m.mapped = newMappedFiles(j, v, st, m.objects, h)
	m.descriptors = &descriptors{j: j, img: img, st: st, o: rebuildOptions(o), handover: h}
	m.descriptors.o.View = v
	m.descriptors.o.Moment = m.clocks.moment
	m.descriptors.o.Shmem = func(i int) (*os.File, error) { return m.objects.shmems[i], nil }
	m.descriptors.o.Unlinked = func(i int) (*os.File, error) { return m.objects.unlinked[i], nil }
	m.descriptors.o.Temp = func(i int) (*os.File, error) { return m.objects.temps[i], nil }
	if o.Lazy != nil {
		m.later = &laterPages{j: j, content: c, server: o.Lazy, plans: map[*process]*lazyPlan{}}
	}
	b := &bequests{j: j, content: c, heritage: p.Forked, unshared: map[int]bool{}}
	m.tree = &tree{
		j: j, view: v, st: st, births: p.Births, handover: h, bequests: b,
		stub: &stubProcess{j: j, pidNS: pidNS, detach: o.Detach},
	}
	m.descriptors.o.Pid = func(pid int) int { return m.tree.byPid[pid].pid }
	m.spaces = &spaces{st: st, boot: p.Boot, bequests: b, objects: m.objects, mapped: m.mapped}
	m.memory = &memory{content: c, bequests: b, later: m.later}
	m.attributes = &attributes{
		pidNS: pidNS, descriptors: m.descriptors,
		terminals: &terminals{j: j, st: st, std: o.Std, policy: o.Policy},
	}
	m.finisher = &finisher{
		descriptors: m.descriptors, clocks: m.clocks, timers: &timers{clocks: m.clocks},
		signals: &signals{processes: st.Processes, stopped: o.Stopped},
	}
	return m
}

// rebuildOptions is what of the options is about descriptors.
func rebuildOptions(o Options) fdtable.RebuildOptions {
	return fdtable.RebuildOptions{Std: o.Std, Given: o.Given, Policy: o.Policy}
}

// actions says how each op of a plan is done. id is that of the image.
func (m *made) actions(j *journal, st *model.State, id string) map[plan.Op]action {
	adopted := func(p *process) bool { return m.tree.stub.detach && p == m.tree.procs[0] }
	return map[plan.Op]action{
		plan.OpServer:   {phasePlan, whole(m.later.take)},
		plan.OpShmem:    {phaseFiles, indexed(m.objects.shmem)},
		plan.OpUnlinked: {phaseFiles, indexed(m.objects.unlinkedFile)},
		plan.OpNamed:    {phaseFiles, whole(m.named.open)},
		plan.OpMapped: {
			phaseFiles, func(s plan.Step) error { return m.mapped.openOf(record(st, s.Pid), s.Index) },
		},
		plan.OpDescription: {phaseFiles, indexed(m.descriptors.open)},
		plan.OpStub:        {phaseCreate, func(plan.Step) error { return m.tree.start(m.clocks) }},
		plan.OpBirth:       {phaseCreate, indexed(m.tree.birth)},
		plan.OpZombie:      {phaseCreate, m.tree.inside((*process).die)},
		plan.OpStubEnd:     {phaseCreate, whole(m.tree.stub.end)},
		plan.OpSpace:       {phaseSpace, m.tree.inside(m.spaces.build)},
		plan.OpSeal:        {phaseSpace, whole(m.objects.sealLate)},
		plan.OpFill:        {phaseMemory, m.tree.inside(m.memory.fill)},
		plan.OpProtect:     {phaseSpace, m.tree.inside(m.spaces.finish)},
		plan.OpLazy:        {phaseMemory, m.tree.inside(m.later.arm)},
		plan.OpFDs:         {phaseFiles, m.tree.inside(m.descriptors.give)},
		plan.OpThreads:     {phaseThreads, m.tree.inside((*process).makeThreads)},
		plan.OpProcess:     {phaseThreads, m.tree.inside(m.attributes.set)},
		plan.OpThreadState: {
			phaseThreads, m.tree.inside(func(p *process) error { return p.setThreadState(adopted(p)) }),
		},
		plan.OpFinish:      {phaseFinalise, m.tree.inside(m.finisher.finish)},
		plan.OpNamedCommit: {phaseFinalise, whole(m.named.commit)},
		plan.OpFileCommit: {
			phaseFinalise, func(plan.Step) error { return commitFiles(j, m.objects, m.descriptors) },
		},
		plan.OpServe: {phaseRelease, whole(m.later.commit)},
		plan.OpRelease: {
			phaseRelease, func(plan.Step) error { return release(j, m.tree, m.finisher.signals, id) },
		},
	}
}

// whole is an action that knows by itself what it is about.
func whole(do func() error) func(plan.Step) error {
	return func(plan.Step) error { return do() }
}

// indexed is an action for one of what the image has.
func indexed(do func(i int) error) func(plan.Step) error {
	return func(s plan.Step) error { return do(s.Index) }
}

// inside is an action for one process.
func (t *tree) inside(do func(*process) error) func(plan.Step) error {
	return func(s plan.Step) error {
		p := t.byPid[s.Pid]
		if p == nil {
			return fault.New(fault.RestoreState, fmt.Sprintf("pid %d", s.Pid),
				"a step of the plan comes before it is made: %s", s.Text)
		}
		return do(p)
	}
}

// record is the record of a process that lives.
func record(st *model.State, pid int) *model.Process {
	for i := range st.Processes {
		if st.Processes[i].Pid == pid {
			return &st.Processes[i]
		}
	}
	panic("restore: a process of the plan is not in the image")
}
