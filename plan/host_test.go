package plan

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// ordinary is a process that everything of can be brought back on the host of capableHost.
func ordinary() *model.State {
	p := model.Process{
		Pid: 10, PPid: 1, Pgid: 10, Sid: 10, ExitSignal: 17, Cwd: "/", Root: "/",
		Exe: model.MappedFile{Path: "/bin/p", Size: 5, MTime: 7},
		VMAs: []model.VMA{
			{
				Start: 0x400000, End: 0x401000, Prot: 5, Kind: model.VMAFile,
				File: model.MappedFile{Path: "/bin/p", Size: 5, MTime: 7},
			},
			{Start: 0x7000000, End: 0x7001000, Kind: model.VMAVDSO, Name: "[vdso]"},
		},
		Threads: []model.Thread{{Tid: 10, Affinity: []uint64{3}, XState: make([]byte, 576)}},
		FDs:     []model.FD{{Num: 0, File: 1}},
	}
	for i := range p.Limits {
		p.Limits[i] = model.Limit{Cur: ^uint64(0)}
	}
	return &model.State{
		Kernel: model.Kernel{Release: "6.18", BootID: "b", VDSOHash: "v"}, Root: 10, Processes: []model.Process{p},
		Files: []model.File{{ID: 1, Kind: "dir", Mode: typeDir | 0o755, Path: "/data"}},
		Facts: []model.Fact{{Name: "kernel", Value: "6.18"}, {Name: "mount /data", Value: "ext4 /dev/sdb"}},
	}
}

func capableHost() *Host {
	h := &Host{
		Kernel: "6.18", XFeatures: 7, VDSO: []Special{{Name: "[vdso]", Start: 0x1000, End: 0x2000}}, VDSOHash: "v",
		PidMax: 1000, MapMax: 100, BootID: "b",
		CPUs: []uint64{3}, OOMScoreAdj: -1000, Caps: 0x3f,
		Files: map[string]File{
			"/": {Mode: typeDir}, "/bin/p": {Mode: typeRegular | 0o755, Size: 5, MTime: 7},
			"/data": {Mode: typeDir | 0o755},
		},
		Facts: []model.Fact{{Name: "kernel", Value: "6.18"}, {Name: "mount /data", Value: "ext4 /dev/sdb"}},
	}
	for i := range h.Limits {
		h.Limits[i].Max = ^uint64(0)
	}
	return h
}

// Whatever a state needs of a host is refused where the host has it not, by the side that asks in its own codes; and
// nothing else is.
func TestHostRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(st *model.State, h *Host)
		code   fault.Code // of a restore, "" for none
		snap   bool       // a snapshot refuses it too
	}{
		{"ordinary", func(*model.State, *Host) {}, "", false},
		{"an id too high", func(st *model.State, h *Host) { h.PidMax = 10 }, fault.RestoreState, true},
		{"too many mappings", func(st *model.State, h *Host) { h.MapMax = 3 }, fault.RestoreState, true},
		{
			"a limit", func(st *model.State, h *Host) { st.Processes[0].Limits[6].Max, h.Limits[6].Max = 9, 8 },
			fault.RestoreState, true,
		},
		{
			"descriptors above the limit", func(st *model.State, h *Host) { h.Limits[7].Max = 100 }, fault.RestoreState,
			true,
		},
		{"the limits do not bind", func(st *model.State, h *Host) { h.Limits[7].Max, h.Caps = 100, 1<<24 }, "", false},
		{
			"oom_score_adj", func(st *model.State, h *Host) { st.Processes[0].OOMScoreAdj, h.OOMScoreAdj = -500, 0 },
			fault.RestoreState, true,
		},
		{
			"capabilities", func(st *model.State, h *Host) { st.Processes[0].Threads[0].Creds.CapPrm = 1 << 20 },
			fault.RestoreRights, true,
		},
		{"processors", func(st *model.State, h *Host) { h.CPUs = []uint64{4} }, fault.RestoreState, true},
		{"registers", func(st *model.State, h *Host) {
			binary.LittleEndian.PutUint64(st.Processes[0].Threads[0].XState[512:], 0xe7)
		}, fault.OtherCPU, true},
		{"another machine", func(st *model.State, h *Host) {
			st.Kernel.Machine, h.Machine = "aarch64", "x86_64"
		}, fault.OtherCPU, false},
		{"another kernel", func(st *model.State, h *Host) { h.VDSOHash = "w" }, fault.OtherKernel, false},
		{"another vDSO", func(st *model.State, h *Host) { h.VDSO[0].End = 0x3000 }, fault.OtherKernel, true},
		{
			"no working directory", func(st *model.State, h *Host) { h.Files["/"] = File{Gone: "no such file"} },
			fault.FileGone, true,
		},
		{
			"no executable", func(st *model.State, h *Host) { h.Files["/bin/p"] = File{Gone: "no such file"} },
			fault.FileGone, true,
		},
		{"another executable", func(st *model.State,
			h *Host,
		) {
			h.Files["/bin/p"] = File{Mode: typeRegular | 0o755, Size: 6}
		}, fault.FileChanged, false},
		{"not executable", func(st *model.State,
			h *Host,
		) {
			h.Files["/bin/p"] = File{Mode: typeRegular | 0o644, Size: 5, MTime: 7}
		}, fault.FileChanged, true},
		{
			"a file in place of a directory",
			func(st *model.State, h *Host) { h.Files["/data"] = File{Mode: typeRegular} }, fault.FileChanged, true,
		},
		{"seccomp", func(st *model.State, h *Host) {
			st.Processes[0].Threads[0].Seccomp.Mode, h.Features = 2, map[string]Feature{featureSeccomp: {Detail: "no"}}
		}, fault.RestoreState, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, side := range []Side{Restore, Snap} {
				st, h := ordinary(), capableHost()
				c.change(st, h)
				p := Build(st, h, Options{Side: side, Kill: true})
				want := c.code
				if side == Snap {
					want = ""
					if c.snap {
						want = fault.NotRestorable
					}
				}
				switch {
				case want == "" && (len(p.Refusals) > 0 || len(p.Steps) == 0):
					t.Errorf("side %d: refused: %v", side, p.Refusals)
				case want != "" && (len(p.Refusals) == 0 || p.Refusals[0].Code != want || len(p.Steps) > 0):
					t.Errorf("side %d: %v, want %s", side, p.Refusals, want)
				}
			}
		})
	}
}

// A restore that is refused names the facts that have changed, and no others.
func TestChangedFactsAreNamed(t *testing.T) {
	st, h := ordinary(), capableHost()
	h.Files["/data"] = File{Gone: "no such file or directory"}
	h.Facts = []model.Fact{{Name: "kernel", Value: "6.18"}}
	p := Build(st, h, Options{Side: Restore})
	if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes,
		"mount /data was ext4 /dev/sdb at the snapshot and is not there now") || strings.Contains(notes, "kernel") {
		t.Errorf("%q", notes)
	}
	if p := Build(ordinary(), h, Options{Side: Snap}); len(p.Notes) > 0 {
		t.Errorf("a snapshot names changes: %q", p.Notes)
	}
}

// What cannot be undone comes after everything that can, and every process is made before anything is done inside it.
func TestStepsAreInOrder(t *testing.T) {
	st := ordinary()
	child := st.Processes[0]
	child.Pid, child.PPid, child.Pgid, child.Sid = 11, 10, 10, 10
	child.Threads = []model.Thread{{Tid: 11, Affinity: []uint64{3}}}
	st.Processes = append(st.Processes, child,
		model.Process{Pid: 12, PPid: 10, Pgid: 10, Sid: 10, ExitSignal: 17, Zombie: true})
	p := Build(st, capableHost(), Options{Side: Restore, Lazy: true})
	if len(p.Refusals) > 0 {
		t.Fatal(p.Refusals)
	}
	final := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Final })
	made := map[int]bool{}
	for i, s := range p.Steps {
		if s.Final != (i >= final) {
			t.Errorf("step %d, %s: final %v", i, s.Text, s.Final)
		}
		switch s.Op {
		case OpBirth:
			if p.Births.Steps[s.Index].Do == ActFork {
				made[s.Pid] = true
			}
		case OpSpace, OpFill, OpProtect, OpLazy, OpFDs, OpThreads, OpProcess, OpThreadState, OpFinish, OpZombie:
			if !made[s.Pid] {
				t.Errorf("step %d, %s: it is not made yet", i, s.Text)
			}
		}
	}
	if last := p.Steps[len(p.Steps)-1]; last.Op != OpRelease {
		t.Errorf("the last step is %s", last.Text)
	}
}
