package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// task is a process of a kernel that knows nothing but ids: fork(2), setsid(2), setpgid(2), exit(2),
// PR_SET_CHILD_SUBREAPER and wait(2).
type task struct {
	pid, ppid, pgid, sid int
	subreaper            bool
	zombie               bool
	exitSignal           int
}

// kernel holds the tasks. Process 1 is init, and led its own session before all.
type kernel struct {
	tasks map[int]*task
	next  int
}

func newKernel(next int) *kernel {
	return &kernel{tasks: map[int]*task{1: {pid: 1, pgid: 1, sid: 1}}, next: next}
}

// taken reports whether an id is one of a process, a group or a session.
func (k *kernel) taken(id int) bool {
	for _, t := range k.tasks {
		if t.pid == id || t.pgid == id || t.sid == id {
			return true
		}
	}
	return false
}

// fork makes a child of by with the given id, or any that is not in but if that is 0; with sibling, a child of by's
// parent (CLONE_PARENT).
func (k *kernel) fork(by *task, pid int, sibling bool, but map[int]bool) (*task, error) {
	for pid == 0 || pid < 0 {
		if k.next++; !k.taken(k.next) && !but[k.next] {
			pid = k.next
		}
	}
	if k.taken(pid) {
		return nil, fmt.Errorf("id %d is taken", pid)
	}
	t := &task{pid: pid, ppid: by.pid, pgid: by.pgid, sid: by.sid, exitSignal: 17}
	if sibling {
		t.ppid, t.exitSignal = by.ppid, by.exitSignal
	}
	k.tasks[pid] = t
	return t, nil
}

func (k *kernel) setsid(t *task) error {
	for _, o := range k.tasks {
		if o.pgid == t.pid {
			return fmt.Errorf("setsid of %d: there is a group with its id", t.pid)
		}
	}
	t.sid, t.pgid = t.pid, t.pid
	return nil
}

func (k *kernel) setpgid(t *task, pgid int) error {
	if t.sid == t.pid {
		return fmt.Errorf("setpgid of %d: it leads a session", t.pid)
	}
	if pgid != t.pid {
		ok := false
		for _, o := range k.tasks {
			ok = ok || o.pgid == pgid && o.sid == t.sid
		}
		if !ok {
			return fmt.Errorf("setpgid of %d: no group %d in session %d", t.pid, pgid, t.sid)
		}
	}
	t.pgid = pgid
	return nil
}

// exit makes a zombie, whose children go to the nearest living ancestor that is a subreaper.
func (k *kernel) exit(t *task) {
	t.zombie = true
	heir := k.tasks[t.ppid]
	for heir.pid != 1 && (!heir.subreaper || heir.zombie) {
		heir = k.tasks[heir.ppid]
	}
	for _, c := range k.tasks {
		if c.ppid == t.pid {
			c.ppid, c.exitSignal = heir.pid, 17
			if heir.pid == 1 && c.zombie {
				delete(k.tasks, c.pid)
			}
		}
	}
	if t.ppid == 1 {
		delete(k.tasks, t.pid)
	}
}

// tree lists a process and all below it, parents first.
func (k *kernel) tree(root int) []int {
	list := []int{root}
	for i := 0; i < len(list); i++ {
		var kids []int
		for _, t := range k.tasks {
			if t.ppid == list[i] {
				kids = append(kids, t.pid)
			}
		}
		slices.Sort(kids)
		list = append(list, kids...)
	}
	return list
}

// state is what an image would say of the tree below root.
func (k *kernel) state(root int) *model.State {
	st := &model.State{Root: root}
	in, leads, outside := map[int]bool{}, map[int]bool{}, map[int]bool{}
	for _, pid := range k.tree(root) {
		in[pid] = true
	}
	for _, pid := range k.tree(root) {
		t := k.tasks[pid]
		st.Processes = append(st.Processes,
			model.Process{Pid: pid, PPid: t.ppid, Pgid: t.pgid, Sid: t.sid, Zombie: t.zombie, ExitSignal: t.exitSignal})
		leads[t.pgid], leads[t.sid] = true, true
	}
	for _, t := range k.tasks {
		if !in[t.pid] {
			outside[t.pid], outside[t.pgid], outside[t.sid] = true, true, true
		}
	}
	for id := range leads {
		if !in[id] && !outside[id] {
			st.Leaderless = append(st.Leaderless, id)
		}
	}
	slices.Sort(st.Leaderless)
	return st
}

// history lets a tree live at random and returns it. The root is 100, in the session of 50, which may end.
func history(rng *rand.Rand, events int) *kernel {
	k := newKernel(1000)
	shell, _ := k.fork(k.tasks[1], 50, false, nil)
	_ = k.setsid(shell)
	root, _ := k.fork(shell, 100, false, nil)
	root.subreaper = rng.IntN(3) > 0
	signals := rng.IntN(20) == 0
	for range events {
		pids := k.tree(100)
		t := k.tasks[pids[rng.IntN(len(pids))]]
		if t.zombie {
			if rng.IntN(3) == 0 && t.ppid != 50 {
				delete(k.tasks, t.pid)
			}
			continue
		}
		switch n := rng.IntN(20); {
		case n < 8 && len(pids) < 14:
			c, _ := k.fork(t, 0, t != root && rng.IntN(8) == 0, nil)
			if signals && c.ppid == t.pid && rng.IntN(2) == 0 {
				c.exitSignal = 10
			}
		case n < 11:
			_ = k.setsid(t) // some may not
		case n < 13:
			_ = k.setpgid(t, t.pid)
		case n < 15:
			_ = k.setpgid(t, k.tasks[pids[rng.IntN(len(pids))]].pgid)
		case n < 17:
			t.subreaper = !t.subreaper
		default:
			if t != root {
				k.exit(t)
			}
		}
	}
	if rng.IntN(2) == 0 {
		k.exit(shell)
	}
	return k
}

// rebuild follows the steps of a plan in a new kernel.
func rebuild(b *Births, want map[int]bool) (*kernel, error) {
	k := newKernel(2000)
	shell, _ := k.fork(k.tasks[1], 70, false, nil)
	_ = k.setsid(shell)
	stub, _ := k.fork(shell, 71, false, nil)
	_ = k.setpgid(stub, 71)
	made := make([]*task, len(b.Kin))
	of := func(i int) *task {
		if i == TheStub {
			return stub
		}
		return made[i]
	}
	for _, s := range b.Steps {
		var err error
		switch t := of(s.Who); s.Do {
		case ActFork:
			kin := &b.Kin[s.Who]
			made[s.Who], err = k.fork(of(s.By), kin.Pid, b.Sibling(s.Who), want)
			if err == nil && kin.Rec != nil && !b.Sibling(s.Who) {
				made[s.Who].exitSignal = kin.Rec.ExitSignal
			}
		case ActSession:
			err = k.setsid(t)
		case ActAdopt:
			of(s.Parent).subreaper = true
			k.exit(t)
			of(s.Parent).subreaper = false
			delete(k.tasks, t.pid)
		case ActLead:
			err = k.setpgid(t, t.pid)
		case ActJoin:
			if s.Group == 0 {
				s.Group = stub.pgid
			}
			err = k.setpgid(t, s.Group)
		case ActEnd:
			for _, c := range k.tasks {
				if c.ppid == t.pid {
					err = fmt.Errorf("helper %d ends before its child %d", t.pid, c.pid)
				}
			}
			k.exit(t)
			delete(k.tasks, t.pid)
		}
		if err != nil {
			return nil, fmt.Errorf("step %+v: %w", s, err)
		}
	}
	k.exit(stub)
	return k, nil
}

// compareTrees says how what was rebuilt differs from the state.
func compareTrees(st *model.State, k *kernel) error {
	alone := map[int]bool{}
	for _, id := range st.Leaderless {
		alone[id] = true
	}
	in := map[int]bool{}
	for i := range st.Processes {
		in[st.Processes[i].Pid] = true
	}
	for i := range st.Processes {
		p := &st.Processes[i]
		t := k.tasks[p.Pid]
		if t == nil {
			return fmt.Errorf("process %d is not there", p.Pid)
		}
		if i > 0 && (t.ppid != p.PPid || t.exitSignal != p.ExitSignal) || i == 0 && t.ppid != 70 {
			return fmt.Errorf("process %d is a child of %d with signal %d, and was one of %d with %d", p.Pid, t.ppid,
				t.exitSignal, p.PPid, p.ExitSignal)
		}
		sid, pgid := p.Sid, p.Pgid
		if !in[sid] && !alone[sid] {
			sid = 70
		}
		if sid == 70 && !in[pgid] && (!alone[pgid] || pgid == st.Processes[0].Pgid) {
			pgid = 71
		}
		if t.sid != sid || t.pgid != pgid {
			return fmt.Errorf("process %d is in session %d, group %d, and has to be in %d, %d", p.Pid, t.sid, t.pgid,
				sid, pgid)
		}
	}
	if have, want := len(k.tree(st.Root)), len(st.Processes); have != want {
		return fmt.Errorf("%d processes instead of %d: %v", have, want, k.tree(st.Root))
	}
	return nil
}

// scattered reports that processes of the tree are in sessions, or led groups, of others outside that are not where the
// root comes from: only those others could put them there again. A signal other than SIGCHLD is the other thing that is
// lost.
func scattered(st *model.State) bool {
	alone := map[int]bool{}
	for _, id := range st.Leaderless {
		alone[id] = true
	}
	in := map[int]bool{}
	for i := range st.Processes {
		in[st.Processes[i].Pid] = true
	}
	for i := range st.Processes {
		p := &st.Processes[i]
		if !in[p.Sid] && !alone[p.Sid] && p.Sid != st.Processes[0].Sid || p.ExitSignal != 17 {
			return true
		}
	}
	return false
}

// Any set of ids that processes can have come to is made again.
func TestBirthsOfRandomTrees(t *testing.T) {
	n, refused, helped, scatter := 6000, 0, 0, 0
	if testing.Short() {
		n = 1000
	}
	for seed := range n {
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		st := history(rng, 5+rng.IntN(60)).state(100)
		b, err := MakeBirths(st)
		if err != nil {
			if refused++; scattered(st) {
				scatter++
				continue
			}
			t.Fatalf("seed %d: %v\n%s", seed, err, describe(st))
		}
		if len(b.Kin) > len(st.Processes) {
			helped++
		}
		want := map[int]bool{}
		for i := range b.Kin {
			want[b.Kin[i].Pid] = true
		}
		k, err := rebuild(b, want)
		if err == nil {
			err = compareTrees(st, k)
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, describe(st))
		}
	}
	t.Logf("%d trees, %d with helpers, %d refused (%d scattered)", n, helped, refused, scatter)
	if helped < n/10 {
		t.Errorf("only %d of %d trees needed a helper", helped, n)
	}
	if refused > n/20 {
		t.Errorf("%d of %d trees were refused", refused, n)
	}
}

func describe(st *model.State) string {
	s := fmt.Sprintf("leaderless %v\n", st.Leaderless)
	for i := range st.Processes {
		p := &st.Processes[i]
		s += fmt.Sprintf("  %d: child of %d, group %d, session %d, zombie %v, signal %d\n", p.Pid, p.PPid, p.Pgid,
			p.Sid, p.Zombie, p.ExitSignal)
	}
	return s
}
