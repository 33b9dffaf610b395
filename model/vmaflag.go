package model

import "slices"

// FlagHow says how a mapping gets a flag of its VmFlags back.
type FlagHow string

// The ways.
const (
	FlagFollows FlagHow = "follows" // it comes by itself: from protection, sharing, or how its file is open
	FlagMapped  FlagHow = "mapped"  // mmap(2) is given VMAFlag.Arg (MAP_*)
	FlagAdvised FlagHow = "advised" // madvise(2) is given VMAFlag.Arg (MADV_*)
	FlagLocked  FlagHow = "locked"  // mlock2(2) is given VMAFlag.Arg (MLOCK_*)
	FlagSealed  FlagHow = "sealed"  // mseal(2), after all else
	FlagDropped FlagHow = "dropped" // it says nothing of what to rebuild
	FlagRefused FlagHow = "refused" // such a mapping cannot be saved
)

// Text says it for people.
func (h FlagHow) Text() string {
	switch h {
	case FlagFollows:
		return "by itself"
	case FlagMapped:
		return "by `mmap`"
	case FlagAdvised:
		return "by `madvise`"
	case FlagLocked:
		return "by `mlock2`"
	case FlagSealed:
		return "by `mseal`, last"
	case FlagDropped:
		return "nothing to bring back"
	}
	return "refused"
}

// VMAFlag is what is known of one of the two-letter names of VmFlags (proc_pid_smaps(5); fs/proc/task_mmu.c,
// show_smap_vma_flags).
type VMAFlag struct {
	Name  string
	Title string // what it stands for, for people
	How   FlagHow
	Arg   uint64 // see FlagHow
	// Lazy says that the pages of such a mapping may come after the process runs. Not so where a flag changes what a
	// missing page is: one locked in memory must be there, one wiped at a fork must not come, and the kernel itself
	// fills in the rest of a stack that grows.
	Lazy bool
}

// Arguments of system calls that are not in every package of numbers (include/uapi/asm-generic/mman-common.h,
// linux/mman.h).
const (
	MapDroppable = 0x08   // MAP_DROPPABLE, Linux 6.11: a type of mapping like MAP_PRIVATE
	mapGrowsdown = 0x100  // MAP_GROWSDOWN
	mapNoreserve = 0x4000 // MAP_NORESERVE

	madvRandom     = 1
	madvSequential = 2
	madvDontfork   = 10
	madvMergeable  = 12
	madvHugepage   = 14
	madvNohugepage = 15
	madvDontdump   = 16
	madvWipeonfork = 18

	mlockOnfault = 1 // MLOCK_ONFAULT
)

// vmaFlags is all that is known of the flags of mappings. Capture, validation, plan, restore and documentation read it
// here; a flag that is not here is one this release has never seen, and refused.
var vmaFlags = []VMAFlag{
	{Name: "rd", Title: "readable", How: FlagFollows, Lazy: true},
	{Name: "wr", Title: "writable", How: FlagFollows, Lazy: true},
	{Name: "ex", Title: "executable", How: FlagFollows, Lazy: true},
	{Name: "sh", Title: "shared", How: FlagFollows},
	{Name: "mr", Title: "may become readable", How: FlagFollows, Lazy: true},
	{Name: "mw", Title: "may become writable", How: FlagFollows, Lazy: true},
	{Name: "me", Title: "may become executable", How: FlagFollows, Lazy: true},
	{Name: "ms", Title: "may be shared", How: FlagFollows},
	{Name: "ac", Title: "accounted", How: FlagFollows, Lazy: true},
	{Name: "gd", Title: "grows down (MAP_GROWSDOWN)", How: FlagMapped, Arg: mapGrowsdown},
	{Name: "dp", Title: "droppable (MAP_DROPPABLE in the place of MAP_PRIVATE), content is not saved", How: FlagMapped, Arg: MapDroppable},
	{Name: "nr", Title: "without reservation (MAP_NORESERVE)", How: FlagMapped, Arg: mapNoreserve, Lazy: true},
	{Name: "lo", Title: "locked (mlock)", How: FlagLocked},
	{Name: "lf", Title: "locked when touched (MLOCK_ONFAULT)", How: FlagLocked, Arg: mlockOnfault},
	{Name: "sr", Title: "read in sequence (MADV_SEQUENTIAL)", How: FlagAdvised, Arg: madvSequential, Lazy: true},
	{Name: "rr", Title: "read at random (MADV_RANDOM)", How: FlagAdvised, Arg: madvRandom, Lazy: true},
	{Name: "dc", Title: "not copied by fork (MADV_DONTFORK)", How: FlagAdvised, Arg: madvDontfork},
	{Name: "dd", Title: "not in core dumps (MADV_DONTDUMP)", How: FlagAdvised, Arg: madvDontdump, Lazy: true},
	{Name: "wf", Title: "zeroed by fork (MADV_WIPEONFORK)", How: FlagAdvised, Arg: madvWipeonfork},
	{Name: "hg", Title: "huge pages wanted (MADV_HUGEPAGE)", How: FlagAdvised, Arg: madvHugepage, Lazy: true},
	{Name: "nh", Title: "no huge pages (MADV_NOHUGEPAGE)", How: FlagAdvised, Arg: madvNohugepage, Lazy: true},
	{Name: "mg", Title: "equal pages merged (MADV_MERGEABLE)", How: FlagAdvised, Arg: madvMergeable},
	{Name: "sl", Title: "sealed (mseal)", How: FlagSealed},
	{Name: "sd", Title: "soft-dirty", How: FlagDropped},
	{Name: "uw", Title: "write-protected by a userfaultfd: a descriptor of it that the program has is refused, ours goes", How: FlagDropped},
	{Name: "gu", Title: "may have guard regions (MADV_GUARD_INSTALL), which are saved", How: FlagDropped},

	{Name: "ht", Title: "huge pages of hugetlbfs", How: FlagRefused},
	{Name: "io", Title: "device memory", How: FlagRefused},
	{Name: "ar", Title: "a flag of the architecture's own: on x86 memory with cache attributes, as drivers map it", How: FlagRefused},
	{Name: "pf", Title: "memory without page structures", How: FlagRefused},
	{Name: "mm", Title: "memory of mixed kinds, as drivers map it", How: FlagRefused},
	{Name: "de", Title: "memory that must not grow, as drivers map it", How: FlagRefused},
	{Name: "um", Title: "a userfaultfd for missing pages, of its own or because restore --lazy has not brought all of its memory", How: FlagRefused},
	{Name: "ui", Title: "a userfaultfd for minor faults", How: FlagRefused},
	{Name: "ss", Title: "a shadow stack", How: FlagRefused},
	{Name: "ar", Title: "memory of another cache type, as drivers map it", How: FlagRefused},
	{Name: "nl", Title: "pages of a file in another order (remap_file_pages before Linux 4.0)", How: FlagRefused},
	{Name: "bt", Title: "branch targets are checked (arm64)", How: FlagRefused},
	{Name: "mt", Title: "tagged memory (arm64)", How: FlagRefused},
	{Name: "sf", Title: "synchronous page faults of a DAX file system", How: FlagRefused},
}

// VMAFlags returns all that is known of the flags of mappings, in the order of the documentation.
func VMAFlags() []VMAFlag { return slices.Clone(vmaFlags) }

// VMAFlagOf looks a flag up by its name in VmFlags.
func VMAFlagOf(name string) (VMAFlag, bool) {
	for i := range vmaFlags {
		if vmaFlags[i].Name == name {
			return vmaFlags[i], true
		}
	}
	return VMAFlag{}, false
}

// Has reports whether the mapping has a flag, by its name in VmFlags.
func (v *VMA) Has(flag string) bool { return slices.Contains(v.Flags, flag) }
