package tracer

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// Mapping flags (include/linux/mm.h). The lower 32 are at the same place in every release from 6.1 on.
const (
	vmRead     = 1 << 0
	vmWrite    = 1 << 1
	vmExec     = 1 << 2
	vmMayShare = 1 << 7
	vmHugetlb  = 1 << 22
	vmSoftDirt = 1 << 27
	pkeyShift  = 32 // VM_PKEY_SHIFT, arch/x86/include/asm/mmu.h; four bits
	vmHighest  = 36 // from here on, releases differ
)

// vmFlagNames are the names of fs/proc/task_mmu.c, show_smap_vma_flags, by bit. Soft-dirty is left out: it says nothing
// of what to rebuild.
var vmFlagNames = [32]string{
	0: "rd", 1: "wr", 2: "ex", 3: "sh", 4: "mr", 5: "mw", 6: "me", 7: "ms", 8: "gd", 9: "um", 10: "pf", 11: "gu",
	12: "uw", 13: "lo", 14: "io",
	15: "sr", 16: "rr", 17: "dc", 18: "de", 19: "lf", 20: "ac", 21: "nr", 22: "ht", 23: "sf", 24: "ar", 25: "wf",
	26: "dd", 28: "mm",
	29: "hg", 30: "nh", 31: "mg",
}

// vmas builds the mappings.
func (b *builder) vmas(raw *rawProcess, p *model.Process) error {
	p.VMAs = make([]model.VMA, 0, len(raw.vmas))
	names := flagNames{}
	var high bool
	var policies []uint64 // where mappings begin that have one
	for i := range raw.vmas {
		r := &raw.vmas[i]
		v := model.VMA{
			Start: r.Start, End: r.End, Shared: r.Flags&vmMayShare != 0, Offset: r.Pgoff * pageSize,
			Prot: uint32(r.Flags & (vmRead | vmWrite | vmExec)), Pkey: int(r.Flags >> pkeyShift & 15),
			Flags: names.of(r.Flags),
		}
		bits := r.Bits
		high = high || r.Flags>>vmHighest != 0
		m, mapped := raw.mapped[r.File]
		if mapped {
			bits |= m.Bits
			if err := b.mappedVMA(raw.pid, r, &m, &v); err != nil && b.stopped {
				return err // a running process may have unmapped it by now
			}
		} else {
			v.Offset = 0
			anonVMA(raw.mm, r, &v)
		}
		if bits&uint32(bpf.IterVmaBitVMA_POLICY) != 0 {
			policies = append(policies, r.Start)
		}
		p.VMAs = append(p.VMAs, v)
	}
	if len(policies) > 0 {
		if err := numaPolicies(p, policies); err != nil {
			return err
		}
	}
	if high {
		return b.highFlags(raw, p)
	}
	return nil
}

// anonVMA tells the kind and name of a mapping without a file, as get_vma_name of fs/proc/task_mmu.c names it.
func anonVMA(mm *bpf.IterMmRec, r *rawVMA, v *model.VMA) {
	v.Kind = model.VMAAnon
	switch {
	case r.Bits&uint32(bpf.IterVmaBitVMA_SPECIAL) != 0:
		v.Name = r.name
		v.Kind = specialKind(r.name)
	case r.Bits&uint32(bpf.IterVmaBitVMA_OPS) != 0:
		v.Kind = model.VMAOther
		v.Name = "mapping of a driver"
	case r.Start < mm.Brk && r.End > mm.StartBrk:
		v.Name = "[heap]"
	case r.Start <= mm.StartStack && r.End >= mm.StartStack:
		v.Name = "[stack]"
	case r.Bits&uint32(bpf.IterVmaBitVMA_NAMED) != 0:
		v.Name = "anon:" + r.name
	}
}

func specialKind(name string) model.VMAKind {
	switch name {
	case "[vdso]":
		return model.VMAVDSO
	case "[vvar]", "[vvar_vclock]":
		return model.VMAVVar
	}
	return model.VMAOther
}

// mappedVMA tells the kind of a mapping with a file.
func (b *builder) mappedVMA(pid int, r *rawVMA, m *rawMapped, v *model.VMA) error {
	inode := &m.Inode
	internal := inode.Sflags&sbKernMount != 0
	path := m.path
	if internal || inode.Bits&uint32(bpf.IterInodeBitINODE_UNLINKED) != 0 {
		path = strings.TrimSuffix(path, procfs.Deleted)
	}
	v.File = model.MappedFile{Path: path, Dev: userDev(inode.Dev), Ino: inode.Ino}
	v.Kind = fileKind(r, inode, path)
	if r.Bits&uint32(bpf.IterVmaBitVMA_NAMED) != 0 {
		v.Name = "anon_shmem:" + r.name
	}
	if v.Kind == model.VMAOther || v.Kind == model.VMASysV || v.Kind == model.VMADevice {
		v.Name = path
	}
	if m.path != "" && (!doubtful(inode) || internal) {
		return nil
	}
	link := fmt.Sprintf("map_files/%x-%x", v.Start, v.End)
	if err := restat(pid, link, &v.File); err != nil {
		return err
	}
	if m.path != "" && inode.Bits&uint32(bpf.IterInodeBitINODE_BACKING) == 0 {
		return nil
	}
	target, err := procfs.Pid(pid).Link(link)
	if err != nil {
		return fmt.Errorf("path of a mapped file: %w", err)
	}
	v.File.Path = strings.TrimSuffix(target, procfs.Deleted)
	return nil
}

const devZero = 1<<20 | 5 // MKDEV(1, 5)

// fileKind tells how a mapping with a file is made again.
func fileKind(r *rawVMA, inode *bpf.IterInodeRec, path string) model.VMAKind {
	internal := inode.Sflags&sbKernMount != 0
	switch {
	case r.Flags&vmHugetlb != 0:
		return model.VMAOther
	case inode.Mode&unix.S_IFMT == unix.S_IFCHR && (inode.Rdev != devZero || r.Flags&vmMayShare != 0):
		return model.VMADevice
	case inode.Mode&unix.S_IFMT == unix.S_IFCHR:
		return model.VMAFile
	case inode.Mode&unix.S_IFMT != unix.S_IFREG:
		return model.VMAOther
	case internal && inode.Magic != magicTmpfs:
		return model.VMAOther
	case internal && strings.HasPrefix(path, "/SYSV"):
		return model.VMASysV
	case internal && path != "/dev/zero" && !strings.HasPrefix(path, "/memfd:"):
		return model.VMAOther
	case internal || inode.Magic == magicTmpfs && inode.Nlink == 0:
		return model.VMAShmem
	}
	return model.VMAFile
}

// flagNames keeps the name lists of flag words: most mappings have one of a few.
type flagNames map[uint64][]string

func (f flagNames) of(flags uint64) []string {
	flags &= 1<<vmHighest - 1
	if names, ok := f[flags]; ok {
		return slices.Clone(names)
	}
	var names []string
	for bit, name := range vmFlagNames {
		if flags&(1<<bit) == 0 || 1<<bit == vmSoftDirt {
			continue
		}
		if name == "" {
			name = fmt.Sprintf("?%d", bit)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	f[flags] = names
	return slices.Clone(names)
}

// numaPolicies reads the policies of the mappings that begin where the iterators saw one. Of other mappings numa_maps
// prints that of the first thread.
func numaPolicies(p *model.Process, at []uint64) error {
	list, err := procfs.Pid(p.Pid).NUMAMaps()
	if err != nil {
		return fmt.Errorf("memory policies: %w", err)
	}
	for _, n := range list {
		i, found := slices.BinarySearchFunc(p.VMAs, n.Start,
			func(v model.VMA, start uint64) int { return compare(v.Start, start) })
		if _, own := slices.BinarySearch(at, n.Start); found && own && n.Policy != "default" {
			p.VMAs[i].NUMA = n.Policy
		}
	}
	return nil
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// highFlags asks smaps for the names of the flags whose place differs between releases (sl, dp, ss, ui ...).
func (b *builder) highFlags(raw *rawProcess, p *model.Process) error {
	list, err := procfs.Pid(raw.pid).Smaps()
	if err != nil {
		return fmt.Errorf("mapping flags: %w", err)
	}
	for _, s := range list {
		i, found := slices.BinarySearchFunc(p.VMAs, s.Start,
			func(v model.VMA, start uint64) int { return compare(v.Start, start) })
		if !found || raw.vmas[i].Flags>>vmHighest == 0 {
			continue
		}
		flags := slices.DeleteFunc(slices.Clone(s.Flags), func(f string) bool { return f == "sd" })
		if slices.Contains(flags, "??") {
			b.block(fault.VMAFlag, fmt.Sprintf("mapping %x-%x of pid %d", s.Start, s.End, raw.pid), "its flags are %#x",
				raw.vmas[i].Flags)
		}
		slices.Sort(flags)
		p.VMAs[i].Flags = flags
	}
	return nil
}
