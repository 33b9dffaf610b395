package plan

import (
	"fmt"
	"slices"

	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// Op is what a step of a restore does.
type Op string

// The ops, in the order in which a restore comes to them. Those with a process are done inside it.
const (
	OpServer   Op = "server"        // take over the server of pages (restore --lazy)
	OpShmem    Op = "shmem"         // make and fill State.Shmems[Index]
	OpUnlinked Op = "unlinked-file" // make and fill State.Unlinked[Index]
	OpNamed    Op = "named-memory"  // open or make the files of State.Named
	// open the file behind Processes[of Pid].VMAs[Index], or the executable if Index is -1
	OpMapped      Op = "mapped-file"
	OpDescription Op = "description"  // open State.Files[Index] again
	OpStub        Op = "stub"         // start what every process begins as
	OpBirth       Op = "birth"        // Births.Steps[Index]
	OpZombie      Op = "zombie"       // let the process end as it had
	OpStubEnd     Op = "stub-end"     // end the stub
	OpSpace       Op = "mappings"     // make the mappings, still empty
	OpSeal        Op = "seal"         // seal shared memory that had to be mapped first
	OpFill        Op = "memory"       // fill the mappings
	OpProtect     Op = "protect"      // protection, advice, locks, addresses of code, heap and stack
	OpLazy        Op = "lazy"         // register what comes later
	OpFDs         Op = "descriptors"  // put the descriptors in place
	OpThreads     Op = "threads"      // make the threads
	OpProcess     Op = "process"      // directories, handlers, flags
	OpThreadState Op = "thread-state" // names, scheduling, credentials of each thread
	OpFinish      Op = "finish"       // limits, timers, pending signals, registers
	OpNamedCommit Op = "named-commit" // put back the content of named memory
	OpFileCommit  Op = "file-commit"  // cut files back, set terminals, start timers
	OpServe       Op = "serve"        // let the server of pages go
	OpRelease     Op = "release"      // let everything run
)

// Step is one step of a restore. Until the first one that is Final everything can be undone, and is if a step fails.
type Step struct {
	Op    Op     `json:"op"`
	Pid   int    `json:"pid,omitempty"`   // the process it is for, as the image has it; 0 for none
	Index int    `json:"index,omitempty"` // see Op
	Text  string `json:"text"`            // for people
	// it changes what outlives a failed restore: it cannot be undone, and comes when all else has succeeded
	Final bool `json:"final,omitempty"`
}

// stepper lists the steps.
type stepper struct {
	st    *model.State
	o     Options
	steps []Step
}

// steps lists what brings a state back, in order.
func (b *builder) steps(births *Births) []Step {
	s := &stepper{st: b.st, o: b.o}
	s.objects()
	s.files()
	s.processes(births)
	s.descriptions(true)
	s.inside()
	s.last()
	return s.steps
}

func (s *stepper) add(op Op, pid, index int, format string, args ...any) {
	s.steps = append(s.steps, Step{Op: op, Pid: pid, Index: index, Text: fmt.Sprintf(format, args...)})
}

// objects makes what has no name, and memory that has one.
func (s *stepper) objects() {
	if s.o.Lazy {
		s.add(OpServer, 0, 0, "take over the server of pages")
	}
	for i := range s.st.Shmems {
		o := &s.st.Shmems[i]
		s.add(OpShmem, 0, i, "make shared memory of %d bytes (%s)", o.Size, o.Kind)
	}
	for i := range s.st.Unlinked {
		s.add(OpUnlinked, 0, i, "make the unlinked file %s again, %d bytes", s.st.Unlinked[i].Path, s.st.Unlinked[i].Size)
	}
	if n := len(s.st.Named); n > 0 {
		s.add(OpNamed, 0, 0, "open memory by its name, or make it: %s%s", s.st.Named[0].Path, more(n-1))
	}
}

func more(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// FileKey says which file a mapping needs and how it must be open. It is opened once for all mappings that need the
// same.
type FileKey struct {
	Path     string
	Unlinked int // 1-based index into State.Unlinked
	Shmem    int // 1-based index into State.Shmems
	Write    bool
}

// KeyOf tells which file is behind a mapping, if there is one. What is sealed against writes looks as if it had been
// opened for reading only, but for the flag sh.
func KeyOf(st *model.State, v *model.VMA) (FileKey, bool) {
	const sealWrite = 8 // F_SEAL_WRITE, include/uapi/linux/fcntl.h
	sealed := v.Kind == model.VMAShmem && st.Shmems[v.Shmem-1].Seals&sealWrite != 0
	write := v.Shared && (v.Has("mw") || sealed && v.Has("sh"))
	switch {
	case v.Kind == model.VMAShmem:
		return FileKey{Shmem: v.Shmem, Write: write}, true
	case v.Kind != model.VMAFile:
		return FileKey{}, false
	case v.File.Unlinked > 0:
		return FileKey{Unlinked: v.File.Unlinked, Write: write}, true
	}
	return FileKey{Path: v.File.Path, Write: write}, true
}

// files opens what is mapped, executed and open.
func (s *stepper) files() {
	seen := map[FileKey]bool{}
	for i := range s.st.Processes {
		p := &s.st.Processes[i]
		if p.Zombie {
			continue
		}
		for j := range p.VMAs {
			v := &p.VMAs[j]
			key, ok := KeyOf(s.st, v)
			if !ok || seen[key] {
				continue
			}
			seen[key] = true
			s.add(OpMapped, p.Pid, j, "open %s, which pid %d maps", v.File.Path, p.Pid)
		}
		s.add(OpMapped, p.Pid, -1, "open %s, the executable of pid %d", p.Exe.Path, p.Pid)
	}
	s.descriptions(false)
}

// descriptions opens those that lead to processes, or all others.
func (s *stepper) descriptions(late bool) {
	holders := firstHolders(s.st)
	for i := range s.st.Files {
		f := &s.st.Files[i]
		if f.NeedsProcesses() == late {
			s.add(OpDescription, holders[f.ID].pid, i, "fd %d of pid %d: %s", holders[f.ID].fd, holders[f.ID].pid,
				s.becomes(f))
		}
	}
}

type holder struct{ pid, fd int }

// firstHolders finds a descriptor for each description.
func firstHolders(st *model.State) map[int]holder {
	out := map[int]holder{}
	for i := range st.Processes {
		for _, fd := range st.Processes[i].FDs {
			if _, ok := out[fd.File]; !ok {
				out[fd.File] = holder{st.Processes[i].Pid, fd.Num}
			}
		}
	}
	return out
}

// becomes says what a description becomes.
func (s *stepper) becomes(f *model.File) string {
	switch {
	case f.Std != 0 && f.Others && s.o.Policy.Of(policy.Std) == policy.Null:
		return fmt.Sprintf("open %s, at %d", f.Path, f.Pos)
	case f.Std != 0 && s.o.Policy.Of(policy.Std) == policy.Null:
		return fmt.Sprintf("%s becomes /dev/null", f.Path)
	case f.Std != 0:
		return fmt.Sprintf("%s becomes standard stream %d of the restore", f.Path, f.Std-1)
	}
	k := model.FDKindOf(f.Kind)
	if k != nil && k.Becomes != nil {
		if text := k.Becomes(s.st, f, s.o.Policy.Of(policy.Terminal) == policy.Null); text != "" {
			return text
		}
	}
	if k != nil && k.ByName {
		return "open " + f.Path
	}
	return fmt.Sprintf("make a new %s (%s)", f.Kind, f.Path)
}

// processes makes the tree.
func (s *stepper) processes(births *Births) {
	s.add(OpStub, 0, 0, "start the stub, from which all are made")
	for i, step := range births.Steps {
		pid := births.Kin[step.Who].Pid
		s.add(OpBirth, pid, i, "%s", births.text(step))
	}
	for i := range s.st.Processes {
		if p := &s.st.Processes[i]; p.Zombie {
			s.add(OpZombie, p.Pid, i, "pid %d ends, and waits for its parent", p.Pid)
		}
	}
	s.add(OpStubEnd, 0, 0, "end the stub")
}

// name is what people call a process that is made.
func (b *Births) name(i int) string {
	switch k := TheStub; {
	case i == k:
		return "the stub"
	case b.Kin[i].Pid == 0:
		return "a helper"
	case b.Kin[i].Rec == nil:
		return fmt.Sprintf("helper %d", b.Kin[i].Pid)
	}
	return fmt.Sprintf("pid %d", b.Kin[i].Pid)
}

// text says what a step does.
func (b *Births) text(s BirthStep) string {
	who := b.name(s.Who)
	switch s.Do {
	case ActFork:
		return fmt.Sprintf("%s makes %s", b.name(s.By), who)
	case ActSession:
		return who + " makes a session"
	case ActAdopt:
		return fmt.Sprintf("%s ends, its child becomes that of %s", who, b.name(s.Parent))
	case ActLead:
		return who + " makes a process group"
	case ActJoin:
		if s.Group == 0 {
			return who + " joins the process group of the restore"
		}
		return fmt.Sprintf("%s joins process group %d", who, s.Group)
	case ActFill:
		return who + " maps and fills the memory that it shares with its children"
	}
	return who + " ends"
}

// inside turns each process into what it was.
func (s *stepper) inside() {
	s.each(OpSpace, func(p *model.Process) string {
		return fmt.Sprintf("make the %d mappings of pid %d", len(p.VMAs), p.Pid)
	})
	if slices.ContainsFunc(s.st.Shmems, func(o model.Shmem) bool { return o.Seals != 0 }) {
		s.add(OpSeal, 0, 0, "seal shared memory")
	}
	s.each(OpFill, func(p *model.Process) string { return fmt.Sprintf("fill the memory of pid %d", p.Pid) })
	s.each(OpProtect, func(p *model.Process) string {
		return fmt.Sprintf("set the protection and advice of pid %d's mappings", p.Pid)
	})
	if s.o.Lazy {
		s.each(OpLazy, func(p *model.Process) string {
			return fmt.Sprintf("register what of pid %d's memory comes later", p.Pid)
		})
	}
	s.each(OpFDs, func(p *model.Process) string {
		return fmt.Sprintf("put the %d descriptors of pid %d in place", len(p.FDs), p.Pid)
	})
	s.each(OpThreads, func(p *model.Process) string {
		return fmt.Sprintf("make the %d threads of pid %d", len(p.Threads), p.Pid)
	})
	s.each(OpProcess, func(p *model.Process) string {
		return fmt.Sprintf("pid %d: directory %s, signal handlers, flags", p.Pid, p.Cwd)
	})
	s.each(OpThreadState, func(p *model.Process) string {
		return fmt.Sprintf("pid %d: names, scheduling and credentials of threads", p.Pid)
	})
	at := len(s.steps)
	s.each(OpFinish, func(p *model.Process) string {
		return fmt.Sprintf("pid %d: limits, timers, pending signals, registers", p.Pid)
	})
	slices.Reverse(s.steps[at:]) // what becomes of children, parents are told
}

// each adds a step for every process that lives.
func (s *stepper) each(op Op, text func(p *model.Process) string) {
	for i := range s.st.Processes {
		if p := &s.st.Processes[i]; !p.Zombie {
			s.add(op, p.Pid, i, "%s", text(p))
		}
	}
}

// last is what cannot be undone.
func (s *stepper) last() {
	at := len(s.steps)
	if len(s.st.Named) > 0 {
		s.add(OpNamedCommit, 0, 0, "put back the content of named memory")
	}
	s.add(OpFileCommit, 0, 0, "cut back what was appended, set terminals, start timers")
	if s.o.Lazy {
		s.add(OpServe, 0, 0, "let the server of pages go")
	}
	s.add(OpRelease, 0, 0, "let everything run")
	for i := range s.steps[at:] {
		s.steps[at+i].Final = true
	}
}
