// Package host reads what a plan has to know of this machine and of this process (plan.Host), as a view shows them. It
// changes nothing and needs no rights; what it opens it opens without waiting.
package host

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/buildid"
	"github.com/bpfckpt/bpfckpt/internal/features"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// Read reads what a plan for st and o has to know, but for what names lead to: see Look.
func Read(v *view.View, st *model.State, o plan.Options) (*plan.Host, error) {
	h := &plan.Host{XFeatures: xcr0(), Files: map[string]plan.File{}, Features: map[string]plan.Feature{}}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("read the kernel's name: %w", err)
	}
	h.Kernel, h.Machine = unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
	var err error
	if h.VDSO, h.VDSOHash, err = vdso(v); err != nil {
		return nil, err
	}
	if h.BootID, err = v.Boot(); err != nil {
		return nil, err
	}
	for name, to := range map[string]*int{
		"kernel/pid_max": &h.PidMax, "vm/max_map_count": &h.MapMax,
		"fs/pipe-max-size": &h.PipeMax,
	} {
		if *to, err = number(name); err != nil {
			return nil, err
		}
	}
	for i := range h.Limits {
		var lim unix.Rlimit
		if err := unix.Getrlimit(i, &lim); err != nil {
			return nil, fmt.Errorf("read resource limit %d: %w", i, err)
		}
		h.Limits[i] = model.Limit{Cur: lim.Cur, Max: lim.Max}
	}
	if h.Caps, err = permitted(); err != nil {
		return nil, err
	}
	if h.CPUs, err = processors(); err != nil {
		return nil, err
	}
	h.OOMScoreAdj = lowestOOM(v, st)
	for _, name := range plan.Needs(st, h.BootID, o) {
		r := features.Try(name)
		h.Features[name] = plan.Feature{Has: r.Outcome == features.Yes, Detail: r.Detail, Remedy: r.Remedy}
	}
	h.Facts = facts(h)
	return h, nil
}

// facts is what an image remembers of a host.
func facts(h *plan.Host) []model.Fact {
	list := []model.Fact{
		{Name: "kernel", Value: h.Kernel},
		{Name: "vdso", Value: h.VDSOHash},
		{Name: "cpu.xfeatures", Value: fmt.Sprintf("%#x", h.XFeatures)},
		{Name: "kernel.pid_max", Value: strconv.Itoa(h.PidMax)},
		{Name: "vm.max_map_count", Value: strconv.Itoa(h.MapMax)},
		{Name: "fs.pipe-max-size", Value: strconv.Itoa(h.PipeMax)},
		{Name: "capabilities", Value: fmt.Sprintf("%#x", h.Caps)},
	}
	sortFacts(list)
	return list
}

func sortFacts(list []model.Fact) {
	slices.SortFunc(list, func(a, b model.Fact) int { return strings.Compare(a.Name, b.Name) })
}

func number(name string) (int, error) {
	text, err := procfs.Sysctl(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return n, nil
}

// vdso reads where the kernel has put the vDSO into this process, and a hash of its code: it is the same in every
// process.
func vdso(v *view.View) ([]plan.Special, string, error) {
	list, err := Specials(v.Mine())
	if err != nil {
		return nil, "", err
	}
	i := slices.IndexFunc(list, func(s plan.Special) bool { return s.Name == "[vdso]" })
	if i < 0 {
		return list, "", nil // vdso=0 on the kernel's command line
	}
	mem, err := os.Open(string(v.Mine()) + "/mem")
	if err != nil {
		return nil, "", fmt.Errorf("read the vDSO: %w", err)
	}
	defer mem.Close()
	code := make([]byte, list[i].End-list[i].Start)
	if _, err := mem.ReadAt(code, int64(list[i].Start)); err != nil {
		return nil, "", fmt.Errorf("read the vDSO: %w", err)
	}
	return list, fmt.Sprintf("%016x", xxhash.Sum64(code)), nil
}

// Specials reads which mappings of the vDSO a process has, ascending.
func Specials(d procfs.Dir) ([]plan.Special, error) {
	maps, err := d.Maps()
	if err != nil {
		return nil, err
	}
	var list []plan.Special
	for i := range maps {
		if m := &maps[i]; m.Name == "[vdso]" || strings.HasPrefix(m.Name, "[vvar") {
			list = append(list, plan.Special{Name: m.Name, Start: m.Start, End: m.End})
		}
	}
	return list, nil
}

// processors reads which processors are online, as a mask, low word first
// (Documentation/ABI/testing/sysfs-devices-system-cpu).
func processors() ([]uint64, error) {
	const name = "/sys/devices/system/cpu/online"
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // sysfs is not mounted: nothing is known, and nothing refused
	}
	if err != nil {
		return nil, fmt.Errorf("read the processors: %w", err)
	}
	const most = 8192 // NR_CPUS of x86-64
	mask, err := plan.ParseMask(strings.TrimSpace(string(b)), most)
	if err != nil {
		return nil, fmt.Errorf("read the processors: %w", err)
	}
	return mask, nil
}

// permitted reads our permitted capabilities (capabilities(7)).
func permitted() (uint64, error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, fmt.Errorf("read our capabilities: %w", err)
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}

// lowestOOM returns the lowest oom_score_adj of st that this process may have, or ours. The kernel does not tell the
// minimum, below which only CAP_SYS_RESOURCE goes (proc_pid_oom_score_adj(5)): it is tried, and put back.
func lowestOOM(v *view.View, st *model.State) int {
	name := string(v.Mine()) + "/oom_score_adj"
	b, err := os.ReadFile(name)
	if err != nil {
		return -1000 // the restore will tell
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return -1000
	}
	lowest := own
	for i := range st.Processes {
		if want := st.Processes[i].OOMScoreAdj; !st.Processes[i].Zombie && want < lowest && mayWrite(name, want) {
			lowest = want
		}
	}
	if lowest != own {
		_ = os.WriteFile(name, []byte(strconv.Itoa(own)), 0) // to raise it again is always allowed
	}
	return lowest
}

func mayWrite(name string, value int) bool {
	return os.WriteFile(name, []byte(strconv.Itoa(value)), 0) == nil
}

// Look finds out what every name of the state leads to, as far as h does not know yet, and adds the mounts that they
// are on to the facts.
func Look(v *view.View, st *model.State, h *plan.Host) error {
	wanted, exes := buildIDs(st), executables(st)
	var fresh []string
	for name, noFollow := range plan.Names(st) {
		if _, ok := h.Files[name]; ok || name == "" {
			continue
		}
		f := look(v, name, noFollow, wanted[name])
		var fs unix.Statfs_t
		f.NoExec = slices.Contains(exes, name) && v.Statfs(name, &fs) == nil && fs.Flags&unix.ST_NOEXEC != 0
		h.Files[name] = f
		fresh = append(fresh, name)
	}
	if len(fresh) == 0 {
		return nil
	}
	return addMounts(v, h, fresh)
}

func executables(st *model.State) (names []string) {
	for i := range st.Processes {
		if p := &st.Processes[i]; !p.Zombie && !p.Exe.Nameless() {
			names = append(names, p.Exe.Path)
		}
	}
	return names
}

// buildIDs are the mapped files for which a build-id decides if their time has changed.
func buildIDs(st *model.State) map[string]*model.MappedFile {
	out := map[string]*model.MappedFile{}
	for i := range st.Processes {
		p := &st.Processes[i]
		if p.Exe.BuildID != "" {
			out[p.Exe.Path] = &p.Exe
		}
		for j := range p.VMAs {
			if f := &p.VMAs[j].File; f.BuildID != "" {
				out[f.Path] = f
			}
		}
	}
	return out
}

// look stats one name. It opens the file only if that is needed to tell whether it is the wanted one.
func look(v *view.View, name string, noFollow bool, want *model.MappedFile) plan.File {
	stat := v.Stat
	if noFollow {
		stat = v.Lstat
	}
	var st unix.Stat_t
	if err := stat(name, &st); err != nil {
		return plan.File{Gone: err.Error()}
	}
	f := File(&st)
	if want != nil && st.Mode&unix.S_IFMT == unix.S_IFREG && f.Size == want.Size && f.MTime != want.MTime {
		f.BuildID = buildIDOf(v, name)
	}
	return f
}

// File is what a plan has to know of a file that was looked at with stat(2).
func File(st *unix.Stat_t) plan.File {
	return plan.File{Mode: st.Mode, Dev: st.Dev, Ino: st.Ino, Rdev: st.Rdev, Size: st.Size, MTime: st.Mtim.Nano()}
}

// Streams tells what standard streams lead to; a closed one, or one that is no file of ours to look at, is nil.
func Streams(std [3]*os.File) (out [3]*plan.Stream) {
	for i, f := range std {
		var st unix.Stat_t
		if f == nil || unix.Fstat(int(f.Fd()), &st) != nil {
			continue
		}
		s := &plan.Stream{File: File(&st)}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			s.Pos, _ = unix.Seek(int(f.Fd()), 0, unix.SEEK_CUR) // it has a position
		}
		out[i] = s
	}
	return out
}

// addMounts adds the mounts that names are on (proc_pid_mountinfo(5)).
func addMounts(v *view.View, h *plan.Host, names []string) error {
	list, err := v.Mounts()
	if err != nil {
		return err
	}
	mounts := map[string]string{} // by mount point
	for _, m := range list {
		mounts[m.Point] = m.Type + " " + m.Source
	}
	for _, name := range names {
		at := mountOf(mounts, name)
		fact := model.Fact{Name: "mount " + at, Value: mounts[at]}
		if !slices.Contains(h.Facts, fact) {
			h.Facts = append(h.Facts, fact)
		}
	}
	sortFacts(h.Facts)
	return nil
}

// mountOf is the longest mount point that a name is below.
func mountOf(mounts map[string]string, name string) string {
	for at := name; at != "/" && at != ""; at = at[:strings.LastIndexByte(at, '/')] {
		if _, ok := mounts[at]; ok {
			return at
		}
		if !strings.Contains(at, "/") {
			break
		}
	}
	return "/"
}

// buildIDOf returns the build-id of a regular file, "" if it has none or cannot be read.
func buildIDOf(v *view.View, name string) string {
	fd, err := v.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return buildid.Of(f)
}
