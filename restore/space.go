package restore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/stub"
)

// buildSpace replaces the stub's address space by the mappings of the image, still empty: the boot area first, the vDSO parked beside it,
// everything else out, then the mappings, then the vDSO at its old address.
func (r *restorer) buildSpace(p *process) error {
	if err := raiseLimits(p); err != nil {
		return err
	}
	if err := r.makeBoot(p); err != nil {
		return err
	}
	b := r.newBatch(p, p.lead)
	park, err := r.parkVDSO(p, b)
	if err != nil {
		return err
	}
	b.call("unmap what lies below", unix.SYS_MUNMAP, uint64(0), p.boot)
	end := p.boot + bootSize + vdsoRoom
	b.call("unmap what lies above", unix.SYS_MUNMAP, end, uint64(maxAddress-pageSize)-end)
	if err := b.done(); err != nil {
		return err
	}
	if err := r.clearDescriptors(p); err != nil {
		return err
	}
	for i := range p.rec.VMAs {
		v := &p.rec.VMAs[i]
		if _, file := r.keyOf(v); file {
			continue
		}
		if err := mapOne(b, v, -1); err != nil {
			return err
		}
	}
	r.placeVDSO(p, b, park)
	if err := b.done(); err != nil {
		return err
	}
	return r.mapFiles(p)
}

// makeBoot maps the boot area and copies the code there.
func (r *restorer) makeBoot(p *process) error {
	want := r.plan.procs[p.rec.Pid].boot
	at, err := p.call("map the boot area", unix.SYS_MMAP, want, bootSize, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uint64(0), 0)
	if err != nil {
		return err
	}
	if uint64(at) != want {
		return fmt.Errorf("map the boot area of %s: got %#x instead of %#x", p.object(), at, want)
	}
	if _, err := ptrace.WriteMemory(p.pid, []ptrace.Range{{Addr: want, Len: stub.CodeSize}}, stub.Code()); err != nil {
		return err
	}
	p.boot = want
	return nil
}

// special is one of the mappings that the kernel itself puts into a process.
type special struct {
	name       string
	start, end uint64
}

// specials reads the vDSO's mappings from /proc/PID/maps (proc_pid_maps(5)), ascending.
func specials(pid int) ([]special, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("read mappings: %w", err)
	}
	defer f.Close()
	var list []special
	for sc := bufio.NewScanner(f); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 6 || fields[5] != "[vdso]" && !strings.HasPrefix(fields[5], "[vvar") {
			continue
		}
		s := special{name: fields[5]}
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &s.start, &s.end); err != nil {
			return nil, fmt.Errorf("read mappings of pid %d: %q: %w", pid, sc.Text(), err)
		}
		list = append(list, s)
	}
	return list, nil
}

// wanted returns the vDSO's mappings as the image has them.
func wanted(rec *image.Process) []special {
	var list []special
	for i := range rec.VMAs {
		if v := &rec.VMAs[i]; v.Kind == image.VMAVDSO || v.Kind == image.VMAVVar {
			list = append(list, special{name: v.Name, start: v.Start, end: v.End})
		}
	}
	return list
}

// parkVDSO moves the stub's vDSO into the park behind the boot area, where nothing of the image will be, and returns where its parts
// are now. The image must have the same parts with the same distances, or none.
func (r *restorer) parkVDSO(p *process, b *batch) ([]special, error) {
	have, err := specials(p.pid)
	if err != nil {
		return nil, err
	}
	want := wanted(p.rec)
	if len(want) == 0 {
		return nil, nil
	}
	if err := sameLayout(have, want); err != nil {
		return nil, fault.New(fault.OtherKernel, p.object(), "%w (image from kernel %s)", err, r.st.Kernel.Release)
	}
	if err := r.sameVDSO(p, have); err != nil {
		return nil, err
	}
	park := r.plan.procs[p.rec.Pid].park
	parked := make([]special, len(have))
	for i, s := range have {
		at := park + s.start - have[0].start
		parked[i] = special{name: s.name, start: at, end: at + s.end - s.start}
		remap(b, s, at)
	}
	return parked, nil
}

// sameVDSO compares the code: the process may be about to return into it, and its library has addresses of functions in it.
func (r *restorer) sameVDSO(p *process, have []special) error {
	i := slices.IndexFunc(have, func(s special) bool { return s.name == "[vdso]" })
	if i < 0 || p != r.procs[0] {
		return nil // the same for all of the tree
	}
	code := make([]byte, have[i].end-have[i].start)
	if _, err := ptrace.ReadMemory(p.pid, []ptrace.Range{{Addr: have[i].start, Len: len(code)}}, code); err != nil {
		return err
	}
	if hash := fmt.Sprintf("%016x", xxhash.Sum64(code)); hash != r.st.Kernel.VDSOHash {
		return fault.New(fault.OtherKernel, p.object(), "the vDSO of this kernel is %s, that of the image %s (kernel %s)", hash, r.st.Kernel.VDSOHash, r.st.Kernel.Release)
	}
	return nil
}

func sameLayout(have, want []special) error {
	if len(have) != len(want) {
		return fmt.Errorf("the vDSO has %d parts here and %d in the image", len(have), len(want))
	}
	for i := range have {
		h, w := have[i], want[i]
		if h.name != w.name || h.end-h.start != w.end-w.start || h.start-have[0].start != w.start-want[0].start {
			return fmt.Errorf("part %s of the vDSO has another size or place than %s of the image", h.name, w.name)
		}
	}
	if have[len(have)-1].end-have[0].start > vdsoRoom {
		return fmt.Errorf("the vDSO takes more than %d bytes", vdsoRoom)
	}
	return nil
}

// remap moves a mapping. The kernel notices moves of the vDSO and keeps its own pointer to it right (vdso_mremap).
func remap(b *batch, s special, to uint64) {
	size := s.end - s.start
	b.callWant(exactly(to), "move "+s.name, unix.SYS_MREMAP, s.start, size, size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, to)
}

func (r *restorer) placeVDSO(p *process, b *batch, parked []special) {
	if len(parked) == 0 {
		b.call("unmap the vDSO", unix.SYS_MUNMAP, r.plan.procs[p.rec.Pid].park, uint64(vdsoRoom))
		return
	}
	for i, w := range wanted(p.rec) {
		remap(b, parked[i], w.start)
	}
}

// Mapping flags missing from golang.org/x/sys/unix.
const (
	madvGuardInstall = 102 // MADV_GUARD_INSTALL, Linux 6.13
	mapDroppable     = 8   // MAP_DROPPABLE, Linux 6.11
	sysMseal         = 462 // mseal(2), Linux 6.10
	mlockOnFault     = 1   // MLOCK_ONFAULT
	prSetVMA         = 0x53564d41
	prSetVMAAnonName = 0
)

// vmaFlag says what a VmFlags name asks of us. The names that are not here were refused at the snapshot.
var advice = []struct {
	flag   string
	advice uint64
}{
	{"sr", unix.MADV_SEQUENTIAL},
	{"rr", unix.MADV_RANDOM},
	{"dc", unix.MADV_DONTFORK},
	{"dd", unix.MADV_DONTDUMP},
	{"hg", unix.MADV_HUGEPAGE},
	{"nh", unix.MADV_NOHUGEPAGE},
	{"mg", unix.MADV_MERGEABLE},
	{"wf", unix.MADV_WIPEONFORK},
}

// known are the VmFlags that restore takes care of, here or elsewhere, or that follow from the rest.
var known = []string{
	"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "ac", "gd", "lo", "lf", "nr", "sl", "gu", "de", "pf", "io", "sf", "dp",
	"sr", "rr", "dc", "dd", "hg", "nh", "mg", "wf",
}

func has(v *image.VMA, flag string) bool { return slices.Contains(v.Flags, flag) }

// firstProt is the protection a mapping is made with. A private mapping that was writable once stays accounted for (ac) when it no
// longer is; only by the same detour do the books agree.
func firstProt(v *image.VMA) uint32 {
	if has(v, "ac") && !v.Shared && !has(v, "nr") {
		return v.Prot | unix.PROT_READ | unix.PROT_WRITE
	}
	return v.Prot
}

// mapOne makes one mapping. file is the descriptor, in the process, of what is mapped, -1 for none.
func mapOne(b *batch, v *image.VMA, file int) error {
	what := fmt.Sprintf("map %#x-%#x %s", v.Start, v.End, v.Name)
	for _, f := range v.Flags {
		if !slices.Contains(known, f) {
			return fault.New(fault.RestoreState, fmt.Sprintf("mapping %#x-%#x", v.Start, v.End), "unknown flag %q", f)
		}
	}
	flags := uint64(unix.MAP_FIXED_NOREPLACE)
	switch {
	case v.Shared:
		flags |= unix.MAP_SHARED
	case has(v, "dp"):
		flags |= mapDroppable
	default:
		flags |= unix.MAP_PRIVATE
	}
	if has(v, "nr") {
		flags |= unix.MAP_NORESERVE
	}
	if has(v, "gd") {
		flags |= unix.MAP_GROWSDOWN
	}
	fd, offset := ^uint64(0), uint64(0)
	switch v.Kind {
	case image.VMAVDSO, image.VMAVVar:
		return nil
	case image.VMAAnon:
		flags |= unix.MAP_ANONYMOUS
	case image.VMAFile, image.VMAShmem:
		fd, offset = uint64(file), v.Offset
	default:
		return fault.New(fault.RestoreState, fmt.Sprintf("mapping %#x-%#x", v.Start, v.End), "kind %q", v.Kind)
	}
	b.callWant(exactly(v.Start), what, unix.SYS_MMAP, v.Start, v.End-v.Start, firstProt(v), flags, fd, offset)
	return nil
}

// finishSpace gives the filled mappings their final protection and advice, and the address space its bookkeeping.
func (r *restorer) finishSpace(p *process) error {
	b := r.newBatch(p, p.lead)
	for i := range p.rec.VMAs {
		if v := &p.rec.VMAs[i]; v.Kind != image.VMAVDSO && v.Kind != image.VMAVVar {
			finishOne(b, v)
		}
	}
	if err := b.done(); err != nil {
		return err
	}
	return r.setMM(p)
}

func finishOne(b *batch, v *image.VMA) {
	at, size := v.Start, v.End-v.Start
	place := fmt.Sprintf("%#x-%#x", v.Start, v.End)
	if first := firstProt(v); first != v.Prot {
		b.call("protect "+place, unix.SYS_MPROTECT, at, size, v.Prot)
	}
	for _, a := range advice {
		if has(v, a.flag) {
			b.call("advise "+a.flag+" "+place, unix.SYS_MADVISE, at, size, a.advice)
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
	switch {
	case has(v, "lf"):
		b.call("lock "+place, unix.SYS_MLOCK2, at, size, mlockOnFault)
	case has(v, "lo"):
		// Like the mlock(2) that made it: a page that cannot be had, PROT_NONE for example, leaves the mapping locked.
		b.callWant(except(unix.ENOMEM), "lock "+place, unix.SYS_MLOCK2, at, size, 0)
	}
}

// givenName is the name that PR_SET_VMA_ANON_NAME gave a mapping.
func givenName(v *image.VMA) (string, bool) {
	if v.Kind == image.VMAShmem {
		return strings.CutPrefix(v.Name, "anon_shmem:")
	}
	name, ok := strings.CutPrefix(v.Name, "anon:")
	return name, ok && v.Kind == image.VMAAnon
}

// sealMappings does what must come after all else that touches mappings.
func (r *restorer) sealMappings(p *process) error {
	b := r.newBatch(p, p.lead)
	if f := p.rec.MM.LockFuture; f != 0 {
		b.call("lock mappings to come", unix.SYS_MLOCKALL, f)
	}
	for i := range p.rec.VMAs {
		if v := &p.rec.VMAs[i]; has(v, "sl") && v.Kind != image.VMAVDSO && v.Kind != image.VMAVVar {
			b.call(fmt.Sprintf("seal %#x-%#x", v.Start, v.End), sysMseal, v.Start, v.End-v.Start, 0)
		}
	}
	return b.done()
}

// setMM sets where code, data, heap, stack, arguments and environment are, the auxiliary vector and the exe link, with
// PR_SET_MM_MAP (struct prctl_mm_map, include/uapi/linux/prctl.h).
func (r *restorer) setMM(p *process) error {
	if err := r.handOverFiles(p, []fileKey{exeKey(p.rec)}); err != nil {
		return err
	}
	exe := p.arrival(0)
	mm := &p.rec.MM
	b := r.newBatch(p, p.lead)
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
	return r.executable(&p.rec.Exe, b.done)
}

// executable calls do while a deleted executable, which may have lost the right to be executed, has it: the kernel wants that of what becomes the exe link.
func (r *restorer) executable(exe *image.MappedFile, do func() error) error {
	if exe.Ghost == 0 || r.st.Ghosts[exe.Ghost-1].Mode&0o111 != 0 {
		return do()
	}
	fd, mode := int(r.ghosts[exe.Ghost-1].Fd()), r.st.Ghosts[exe.Ghost-1].Mode&0o7777
	if err := unix.Fchmod(fd, mode|0o100); err != nil {
		return fmt.Errorf("let %s be executed: %w", exe.Path, err)
	}
	err := do()
	return errors.Join(err, unix.Fchmod(fd, mode))
}
