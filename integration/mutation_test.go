package integration

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

// mutation drops one captured field from an image.
type mutation struct {
	program string
	field   string
	drop    func(st *model.State)
}

func eachThread(f func(th *model.Thread)) func(st *model.State) {
	return func(st *model.State) {
		for i := range st.Processes {
			for k := range st.Processes[i].Threads {
				f(&st.Processes[i].Threads[k])
			}
		}
	}
}

func eachProcess(f func(p *model.Process)) func(st *model.State) {
	return func(st *model.State) {
		for i := range st.Processes {
			f(&st.Processes[i])
		}
	}
}

// XSTATE_BV, the word that says which components are in the area, and the bits of the upper halves (Intel SDM volume 1,
// 13.4).
const (
	xstateBV   = 512
	ymmHi128   = 1 << 2
	avx512Bits = 7 << 5
)

func dropXState(bits byte) func(st *model.State) {
	return eachThread(func(th *model.Thread) {
		if len(th.XState) > xstateBV {
			th.XState[xstateBV] &^= bits
		}
	})
}

// mutations are fields that a snapshot could forget; for each a program must notice.
var mutations = []mutation{
	{"signals/mask", "signal mask", eachThread(func(th *model.Thread) { th.SigMask = 0 })},
	{
		"signals/altstack", "alternate stack",
		eachThread(func(th *model.Thread) { th.AltStack = model.AltStack{Flags: 2} }),
	},
	{"avx2", "upper halves of the AVX registers", dropXState(ymmHi128)},
	{"avx512", "AVX-512 registers", dropXState(avx512Bits)},
	{
		"signals/pending-process", "pending signals of the process",
		eachProcess(func(p *model.Process) { p.Pending = nil }),
	},
	{
		"signals/pending-thread", "pending signals of the thread",
		eachThread(func(th *model.Thread) { th.Pending = nil }),
	},
	{"signals/handlers", "handlers", eachProcess(func(p *model.Process) { p.Actions = nil })},
	{"signals/handlers", "flags of handlers", eachProcess(func(p *model.Process) {
		for i := range p.Actions {
			p.Actions[i].Flags &^= 0x40000000 // SA_NODEFER
		}
	})},
	{"timers/itimer-virtual", "interval timer", eachProcess(func(p *model.Process) { p.ITimers[1] = model.ITimer{} })},
	{"timers/posix-thread", "POSIX timer", eachProcess(func(p *model.Process) { p.Timers[0].Value++ })},
	{"sleeps/nanosleep", "time left of nanosleep", eachThread(func(th *model.Thread) {
		if th.Restart != nil {
			th.Restart.Left = 1
		}
	})},
	{"proc/limits", "limits", eachProcess(func(p *model.Process) { p.Limits[7].Cur-- })},
	{"proc/oom", "OOM score", eachProcess(func(p *model.Process) { p.OOMScoreAdj = 0 })},
	{"proc/directory", "umask", eachProcess(func(p *model.Process) { p.Umask = 0 })},
	{"proc/nice", "nice", eachThread(func(th *model.Thread) { th.Sched.Nice = 0 })},
	{"proc/affinity", "affinity", eachThread(func(th *model.Thread) { th.Affinity = []uint64{3} })},
	{"proc/capabilities", "ambient capabilities", eachThread(func(th *model.Thread) { th.Creds.CapAmb = 0 })},
	{"proc/ids", "supplementary groups", eachThread(func(th *model.Thread) { th.Creds.Groups = nil })},
	{"proc/no-new-privs", "no_new_privs", eachThread(func(th *model.Thread) { th.NoNewPrivs = false })},
	{
		"proc/seccomp", "one seccomp filter",
		eachThread(func(th *model.Thread) { th.Seccomp.Filters = th.Seccomp.Filters[:2] }),
	},
	{"proc/flags", "timer slack", eachThread(func(th *model.Thread) { th.TimerSlack = 50000 })},
	{"proc/flags", "parent-death signal", eachThread(func(th *model.Thread) { th.PDeathSig = 0 })},
	{"proc/flags", "subreaper", eachProcess(func(p *model.Process) { p.Subreaper = false })},
	{"proc/personality", "personality", eachThread(func(th *model.Thread) { th.Personality = 0 })},
	{"proc/comm", "name", eachThread(func(th *model.Thread) { th.Comm = "x" })},
	{"proc/robust", "robust list", eachThread(func(th *model.Thread) { th.RobustList = 0 })},
	{"proc/rseq", "rseq", eachThread(func(th *model.Thread) { th.Rseq = model.Rseq{} })},
	{"proc/membarrier", "membarrier", eachProcess(func(p *model.Process) { p.MM.Membarrier = 0 })},
	{"proc/dumpable", "dumpable", eachProcess(func(p *model.Process) { p.MM.Dumpable = 1 })},
	{"fds/offsets", "file offset", func(st *model.State) {
		for i := range st.Files {
			st.Files[i].Pos = 0
		}
	}},
	{"fds/offsets", "close-on-exec", eachProcess(func(p *model.Process) {
		for i := range p.FDs {
			p.FDs[i].Cloexec = false
		}
	})},
	{"fds/pipes", "content of pipes", func(st *model.State) {
		for i := range st.Pipes {
			st.Pipes[i].Data, st.Pipes[i].Packets = nil, nil
		}
	}},
	{"vmas/advice", "madvise flags", eachProcess(func(p *model.Process) {
		for i := range p.VMAs {
			p.VMAs[i].Flags = slices.DeleteFunc(p.VMAs[i].Flags, func(f string) bool { return f == "dc" || f == "wf" })
		}
	})},
	{"vmas/memfd", "seals", func(st *model.State) {
		for i := range st.Shmems {
			st.Shmems[i].Seals = 0
		}
	}},
}

// The tests notice when a captured field is lost: for each field of the list the image is rewritten without it, and the
// program that is about the field must say so. A rewritten image that lacks nothing passes.
func TestLostFieldsAreNoticed(t *testing.T) {
	t.Run("nothing lost", func(t *testing.T) {
		t.Parallel()
		p := caseNamed(t, "vmas/deleted-file")
		same(t, "rewritten", runMutated(t, p, func(*model.State) {}), control(t, p))
	})
	for _, m := range mutations {
		t.Run(m.field, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, m.program)
			want := control(t, p)
			if lacking(p, want) {
				return
			}
			if r := runMutated(t, p, m.drop); r.status == want.status && r.out == want.out {
				t.Errorf("%s does not notice that the %s is lost", m.program, m.field)
			}
		})
	}
}

func runMutated(t *testing.T, p program, drop func(st *model.State)) result {
	t.Helper()
	tg := start(t, p)
	tg.snap()
	tg.kill()
	tg.rewriteImage(drop)
	tg.restore()
	if strings.Contains(tg.read("restore.err"), "E_IMAGE") {
		t.Fatalf("the rewritten image is refused: %s", tg.read("restore.err"))
	}
	tg.goOn()
	// A program that has lost something may wait for it for ever after it has said so.
	tg.poll("the end", func() bool { return tg.ended() || strings.Contains(tg.read("out"), "differs") })
	r := result{status: -1, out: tg.read("out"), files: map[string]string{}}
	if tg.ended() {
		r.status = tg.join()
	}
	return r
}

// rewriteImage changes the state of the target's image.
func (tg *target) rewriteImage(change func(st *model.State)) {
	t := tg.t
	t.Helper()
	rewrite(t, tg.path("image"), tg.path("changed"), change)
	if err := os.RemoveAll(tg.path("image")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tg.path("changed"), tg.path("image")); err != nil {
		t.Fatal(err)
	}
}

// rewrite copies an image, with its state changed.
func rewrite(t *testing.T, from, to string, change func(st *model.State)) {
	t.Helper()
	r, err := image.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w, err := image.Create(to, image.WriteOptions{Level: image.LevelFast})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	st := r.State()
	for _, space := range spaces(st) {
		for _, run := range r.Runs(space) {
			if run.Kind == image.Zero {
				err = w.Zero(space, run.Addr, run.Pages)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		err := r.Load(t.Context(), space, 1, func(addr uint64, data []byte) error { return w.Write(space, addr, data) })
		if err != nil {
			t.Fatal(err)
		}
	}
	change(st)
	if _, err := w.Commit(st); err != nil {
		t.Fatal(err)
	}
}

// spaces lists every page-granular content a state names.
func spaces(st *model.State) []model.Space {
	var list []model.Space
	for _, p := range st.Processes {
		list = append(list, p.Space)
	}
	for _, s := range st.Shmems {
		list = append(list, s.Space)
	}
	for _, g := range st.Unlinked {
		list = append(list, g.Space)
	}
	return slices.DeleteFunc(list, func(s model.Space) bool { return s == 0 })
}
