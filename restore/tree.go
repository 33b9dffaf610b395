package restore

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// tree is the processes being made.
type tree struct {
	j        *journal
	view     *view.View
	st       *model.State
	births   *plan.Births
	stub     *stubProcess
	handover *handover
	bequests *bequests

	tr      *ptrace.Tracer   // nil until start
	procs   []*process       // in the order of the image, nil until made
	byPid   map[int]*process // the same, by the ids in the image
	made    []*process       // by index of births.Kin
	helpers []*process       // others that were made and are no more when the tree stands
}

// start starts the stub, in which the clocks are those of the tree.
func (t *tree) start(c *clocks) error {
	t.tr = ptrace.New()
	// The last to be waited for: the init of a pid namespace does not end before those that we trace in it are let go.
	t.j.onUndo(t.stub.wait)
	t.j.onUndo(t.killAll)
	t.procs, t.byPid = make([]*process, len(t.st.Processes)), map[int]*process{}
	t.made = make([]*process, len(t.births.Kin))
	if err := t.j.step("start the stub"); err != nil {
		return err
	}
	if err := tellConfined(t.j, t.view, t.st.Processes); err != nil {
		return err
	}
	socket, err := t.handover.open()
	if err != nil {
		return err
	}
	defer socket.Close()
	if err := t.stub.start(t.tr, socket); err != nil {
		return err
	}
	return c.set(t.stub.process)
}

// process is one of those that a birth is about.
func (t *tree) process(kin int) *process {
	if kin == plan.TheStub {
		return t.stub.process
	}
	return t.made[kin]
}

// living are the processes that are no zombies, in the order of the image.
func (t *tree) living() []*process {
	return slices.DeleteFunc(slices.Clone(t.procs), func(p *process) bool { return p.rec.Zombie })
}

// killAll takes down every process made so far and waits until the kernel has given their ids back. Children of the
// tree would be left to the system's init when the root dies; for that moment they come to us instead.
func (t *tree) killAll() {
	was := subreaper()
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // without it init reaps them, a little later
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, was, 0, 0, 0) }()
	var pids []int
	for _, p := range slices.Concat(t.procs, t.helpers) {
		if p != nil {
			pids = append(pids, p.pid)
			_ = unix.Kill(p.pid, unix.SIGKILL) // it may be dead
		}
	}
	t.tr.Close()                                       // what is still attached dies and detaches
	for before := len(pids) + 1; len(pids) < before; { // one becomes ours when its parent has ended
		before = len(pids)
		pids = slices.DeleteFunc(pids, reap)
	}
}

// reap waits for the end of a child of ours, and reports whether it is one.
func reap(pid int) bool {
	for {
		_, err := unix.Wait4(pid, nil, unix.WALL, nil)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// letGo lets every process run, the children before their parents. What runs already may end the others: they have come
// back all the same.
func (t *tree) letGo() error {
	// If we are killed from here on, the kernel lets all of them go; until now it would have ended them. It takes some
	// microseconds, so that hardly ever a part of them is ended.
	for _, p := range t.procs {
		for _, th := range p.threads {
			if err := th.Outlive(); err != nil {
				return err
			}
		}
	}
	// The leader of the root comes last: when nobody traces it any more, nobody traces any of the tree.
	for _, p := range slices.Backward(t.procs) {
		for _, th := range slices.Backward(p.threads) {
			if err := th.Release(); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	if err := t.stub.letGo(t.st.Root); err != nil {
		return err
	}
	t.tr.Close()
	return nil
}
