package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/arch"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/stub"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// spaces makes the address spaces: mappings, where code, heap and stack are, the vDSO.
type spaces struct {
	st       *model.State
	boot     map[int]uint64 // where the boot area of each process goes: Boot of the plan
	bequests *bequests
	objects  *objects
	mapped   *mappedFiles
}

// build replaces the stub's address space by the mappings of the image, still empty: the boot area first, the vDSO
// parked beside it, everything else out, then the mappings, then the vDSO at its old address.
func (s *spaces) build(p *process) error {
	if err := p.raiseLimits(); err != nil {
		return err
	}
	kept := s.bequests.kept(p)
	if err := s.bequests.makeRoom(p, s.boot[p.rec.Pid]); err != nil {
		return err
	}
	if err := s.makeBoot(p); err != nil {
		return err
	}
	b := p.batch(p.lead)
	if p.rec.MM.THPDisable { // before there is memory that could be huge
		b.call("disable huge pages", unix.SYS_PRCTL, prSetTHPDisable, 1, 0, 0, 0)
	}
	park, err := s.parkVDSO(p, b)
	if err != nil {
		return err
	}
	stay := model.Union(kept.ranges(p), []model.Range{bootArea(p.boot)})
	for _, gap := range model.Subtract([]model.Range{{Start: 0, End: arch.Host.AddressEnd}}, stay) {
		b.call(fmt.Sprintf("unmap %#x-%#x", gap.Start, gap.End), unix.SYS_MUNMAP, gap.Start, gap.End-gap.Start)
	}
	s.bequests.adapt(p, b, kept)
	if err := b.done(); err != nil {
		return err
	}
	if err := p.clearDescriptors(); err != nil {
		return err
	}
	for i := range p.rec.VMAs {
		v := &p.rec.VMAs[i]
		if _, file := plan.KeyOf(s.st, v); file || kept[i] {
			continue
		}
		if err := mapOne(b, v, -1); err != nil {
			return err
		}
	}
	s.placeVDSO(p, b, park)
	if err := b.done(); err != nil {
		return err
	}
	return s.mapFiles(p)
}

// makeBoot maps the boot area and copies the code there.
func (s *spaces) makeBoot(p *process) error {
	want := s.boot[p.rec.Pid]
	at, err := p.call("map the boot area", unix.SYS_MMAP, want, plan.BootSize,
		unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uint64(0), 0)
	if errors.Is(err, unix.EEXIST) { // an address space so full that the only hole is where the stub has its stack
		if err := freeOfVDSO(p, want); err != nil {
			return err
		}
		at, err = p.call("map the boot area over the stack", unix.SYS_MMAP, want, plan.BootSize,
			unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED, ^uint64(0), 0)
	}
	if err != nil {
		return err
	}
	if uint64(at) != want {
		return fmt.Errorf("map the boot area of %s: got %#x instead of %#x", p.object(), at, want)
	}
	code, err := stub.Code()
	if err != nil {
		return err
	}
	if _, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: want, Len: len(code)}}, code); err != nil {
		return err
	}
	p.boot = want
	return nil
}

// freeOfVDSO makes sure that the boot area would not cover the stub's vDSO, which is still to be moved.
func freeOfVDSO(p *process, boot uint64) error {
	have, err := host.Specials(procfs.Pid(p.pid))
	if err != nil {
		return err
	}
	for _, v := range have {
		if v.Start < boot+plan.BootSize+plan.VDSORoom && boot < v.End {
			return fault.New(fault.RestoreStep, p.object(),
				"the only room in its address space is where the kernel has put the vDSO of a new process this time").
				WithRemedy("restore again")
		}
	}
	return nil
}

// parkVDSO moves those parts of the stub's vDSO that the image has into the park behind the boot area, where nothing of
// the image will be, and returns where they are now, in the order of the image.
func (s *spaces) parkVDSO(p *process, b *batch) ([]plan.Special, error) {
	have, err := host.Specials(procfs.Pid(p.pid))
	if err != nil {
		return nil, err
	}
	match, err := plan.MatchSpecials(have, plan.Specials(p.rec))
	if err != nil {
		return nil, fault.New(fault.OtherKernel, p.object(), "%w (image from kernel %s)", err, s.st.Kernel.Release)
	}
	park := s.boot[p.rec.Pid] + plan.BootSize
	parked := make([]plan.Special, len(match))
	for i, v := range match {
		at := park + v.Start - have[0].Start
		parked[i] = plan.Special{Name: v.Name, Start: at, End: at + v.End - v.Start}
		remap(b, v, at)
	}
	return parked, nil
}

// remap moves a mapping. The kernel notices moves of the vDSO and keeps its own pointer to it right (vdso_mremap).
func remap(b *batch, s plan.Special, to uint64) {
	size := s.End - s.Start
	b.callWant(exactly(to), "move "+s.Name, unix.SYS_MREMAP, s.Start, size, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED,
		to)
}

func (s *spaces) placeVDSO(p *process, b *batch, parked []plan.Special) {
	if len(parked) == 0 {
		b.call("unmap the vDSO", unix.SYS_MUNMAP, s.boot[p.rec.Pid]+plan.BootSize, uint64(plan.VDSORoom))
		return
	}
	for i, w := range plan.Specials(p.rec) {
		remap(b, parked[i], w.Start)
	}
}

// Mapping flags missing from golang.org/x/sys/unix.
const (
	madvGuardInstall = 102 // MADV_GUARD_INSTALL, Linux 6.13
	sysMseal         = 462 // mseal(2), Linux 6.10
	prSetVMA         = 0x53564d41
	prSetVMAAnonName = 0
)

// mapOne makes one mapping. file is the descriptor, in the process, of what is mapped, -1 for none.
func mapOne(b *batch, v *model.VMA, file int) error {
	what := fmt.Sprintf("map %#x-%#x %s", v.Start, v.End, v.Name)
	flags := uint64(unix.MAP_FIXED_NOREPLACE)
	for _, name := range v.Flags {
		if f, ok := model.VMAFlagOf(name); ok && f.How == model.FlagMapped {
			flags |= f.Arg
		}
	}
	switch {
	case v.Shared:
		flags |= unix.MAP_SHARED
	case flags&model.MapDroppable == 0:
		flags |= unix.MAP_PRIVATE
	}
	fd, offset := ^uint64(0), uint64(0)
	switch v.Kind {
	case model.VMAVDSO, model.VMAVVar:
		return nil
	case model.VMAAnon:
		flags |= unix.MAP_ANONYMOUS
	case model.VMAFile, model.VMAShmem:
		fd, offset = uint64(file), v.Offset
	default:
		return fault.New(fault.RestoreState, fmt.Sprintf("mapping %#x-%#x", v.Start, v.End), "kind %q", v.Kind)
	}
	b.callWant(exactly(v.Start), what, unix.SYS_MMAP, v.Start, v.End-v.Start, plan.FirstProt(v), flags, fd, offset)
	return nil
}

// finish gives the filled mappings their final protection and advice, and the address space its bookkeeping.
func (s *spaces) finish(p *process) error {
	b := p.batch(p.lead)
	for i := range p.rec.VMAs {
		if v := &p.rec.VMAs[i]; v.Kind != model.VMAVDSO && v.Kind != model.VMAVVar {
			finishOne(b, v)
		}
	}
	if err := b.done(); err != nil {
		return err
	}
	return s.setMM(p)
}

func finishOne(b *batch, v *model.VMA) {
	at, size := v.Start, v.End-v.Start
	place := fmt.Sprintf("%#x-%#x", v.Start, v.End)
	if first := plan.FirstProt(v); first != v.Prot {
		b.call("protect "+place, unix.SYS_MPROTECT, at, size, v.Prot)
	}
	for _, name := range v.Flags {
		if f, ok := model.VMAFlagOf(name); ok && f.How == model.FlagAdvised {
			b.call("advise "+name+" "+place, unix.SYS_MADVISE, at, size, f.Arg)
		}
	}
	if name, ok := givenName(v); ok {
		b.call("name "+place, unix.SYS_PRCTL, prSetVMA, prSetVMAAnonName, at, size, inString(name))
	}
	for _, g := range v.Guards {
		b.call(fmt.Sprintf("guard %#x-%#x", g.Start, g.End), unix.SYS_MADVISE, g.Start, g.End-g.Start, madvGuardInstall)
	}
	if v.NUMA != "" {
		bindMemory(b, v)
	}
	lockMapping(b, v)
}

// lockMapping locks a mapping in memory as mlock2(2) did. One that is locked when touched has the flag of those that
// are locked, too.
func lockMapping(b *batch, v *model.VMA) {
	arg, locked := uint64(0), false
	for _, name := range v.Flags {
		if f, ok := model.VMAFlagOf(name); ok && f.How == model.FlagLocked {
			arg, locked = arg|f.Arg, true
		}
	}
	if locked {
		// Like the call that made it: a page that cannot be had, PROT_NONE for example, leaves the mapping locked.
		b.callWant(except(unix.ENOMEM), fmt.Sprintf("lock %#x-%#x", v.Start, v.End), unix.SYS_MLOCK2, v.Start,
			v.End-v.Start, arg)
	}
}

// givenName is the name that PR_SET_VMA_ANON_NAME gave a mapping.
func givenName(v *model.VMA) (string, bool) {
	if v.Kind == model.VMAShmem {
		return strings.CutPrefix(v.Name, "anon_shmem:")
	}
	name, ok := strings.CutPrefix(v.Name, "anon:")
	return name, ok && v.Kind == model.VMAAnon
}

// sealMappings does what must come after all else that touches mappings.
func (p *process) sealMappings() error {
	b := p.batch(p.lead)
	if f := p.rec.MM.LockFuture; f != 0 {
		b.call("lock mappings to come", unix.SYS_MLOCKALL, f)
	}
	for i := range p.rec.VMAs {
		if v := &p.rec.VMAs[i]; v.Has("sl") && v.Kind != model.VMAVDSO && v.Kind != model.VMAVVar {
			b.call(fmt.Sprintf("seal %#x-%#x", v.Start, v.End), sysMseal, v.Start, v.End-v.Start, 0)
		}
	}
	return b.done()
}

// setMM sets where code, data, heap, stack, arguments and environment are, the auxiliary vector and the exe link, with
// PR_SET_MM_MAP (struct prctl_mm_map, include/uapi/linux/prctl.h).
func (s *spaces) setMM(p *process) error {
	if err := s.mapped.give(p, []plan.FileKey{exeKey(p.rec)}); err != nil {
		return err
	}
	exe := p.arrival(0)
	mm := &p.rec.MM
	b := p.batch(p.lead)
	auxv := b.argument(inBytes(mm.Auxv))
	var m []byte
	for _, v := range []uint64{
		mm.StartCode, mm.EndCode, mm.StartData, mm.EndData, mm.StartBrk, mm.Brk, mm.StartStack,
		mm.ArgStart, mm.ArgEnd, mm.EnvStart, mm.EnvEnd, auxv,
	} {
		m = binary.LittleEndian.AppendUint64(m, v)
	}
	m = binary.LittleEndian.AppendUint32(m, uint32(len(mm.Auxv)))
	m = binary.LittleEndian.AppendUint32(m, uint32(exe))
	b.call("set code, heap, stack and exe", unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP, inBytes(m), len(m), 0)
	b.call("close the executable", unix.SYS_CLOSE, exe)
	return s.objects.executable(&p.rec.Exe, b.done)
}

// mapFiles makes the mappings that have a file behind them: the process gets as many files as fit into one message,
// maps them wherever they belong, and closes them before the next ones come.
func (s *spaces) mapFiles(p *process) error {
	users := map[plan.FileKey][]*model.VMA{}
	var keys []plan.FileKey
	for i := range p.rec.VMAs {
		v := &p.rec.VMAs[i]
		key, ok := plan.KeyOf(s.st, v)
		if !ok {
			continue
		}
		if users[key] == nil {
			keys = append(keys, key)
		}
		users[key] = append(users[key], v)
	}
	for len(keys) > 0 {
		n := min(len(keys), plan.MaxFDs)
		if err := s.mapPortion(p, keys[:n], users); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// mapPortion hands files over and makes their mappings.
func (s *spaces) mapPortion(p *process, keys []plan.FileKey, users map[plan.FileKey][]*model.VMA) error {
	if err := s.mapped.give(p, keys); err != nil {
		return err
	}
	b := p.batch(p.lead)
	for i, key := range keys {
		for _, v := range users[key] {
			if err := mapOne(b, v, p.arrival(i)); err != nil {
				return err
			}
		}
	}
	closeOthers(b, p.socket)
	return b.done()
}
