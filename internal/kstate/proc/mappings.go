package proc

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// mappings reads the address space from smaps, numa_maps and stat.
func (c *collection) mappings(dir procfs.Dir, p *model.Process, stat *procfs.Stat) error {
	mm := &p.MM
	mm.StartCode, mm.EndCode, mm.StartData, mm.EndData = stat.StartCode, stat.EndCode, stat.StartData, stat.EndData
	mm.StartBrk, mm.StartStack = stat.StartBrk, stat.StartStack
	mm.ArgStart, mm.ArgEnd, mm.EnvStart, mm.EnvEnd = stat.ArgStart, stat.ArgEnd, stat.EnvStart, stat.EnvEnd
	list, err := dir.Smaps()
	if err != nil {
		return err
	}
	policies, err := dir.NUMAMaps()
	if err != nil {
		return err
	}
	m := mapper{c: c, dir: dir, known: map[fileKey]unix.Stat_t{}}
	p.VMAs = make([]model.VMA, 0, len(list))
	c.maps = make([]procfs.Map, len(list))
	for i := range list {
		s := &list[i]
		c.maps[i] = s.Map
		if s.Name == "[vsyscall]" {
			continue
		}
		v, err := m.vma(s)
		if err != nil {
			if c.g == nil && errors.Is(err, os.ErrNotExist) {
				continue // unmapped meanwhile
			}
			return err
		}
		for len(policies) > 0 && policies[0].Start < v.Start {
			policies = policies[1:]
		}
		if len(policies) > 0 && policies[0].Start == v.Start && policies[0].Policy != "default" {
			v.NUMA = policies[0].Policy
		}
		p.VMAs = append(p.VMAs, v)
	}
	return nil
}

// mapper turns records of smaps into mappings.
type mapper struct {
	c     *collection
	dir   procfs.Dir
	known map[fileKey]unix.Stat_t // what stat(2) says of mapped files
}

// fileKey tells mapped files apart by what maps prints.
type fileKey struct {
	major, minor uint32
	ino          uint64
	path         string
}

func (m *mapper) vma(s *procfs.Smap) (model.VMA, error) {
	v := model.VMA{Start: s.Start, End: s.End, Prot: s.Prot, Shared: s.Shared, Pkey: s.ProtectionKey, Flags: m.flags(s)}
	if !s.HasFile() {
		anonymous(&v, s.Name)
		return v, nil
	}
	v.Offset = s.Offset
	link := "map_files/" + s.Key()
	key := fileKey{s.Major, s.Minor, s.Ino, s.Name}
	st, ok := m.known[key]
	if !ok {
		var err error
		if st, err = m.dir.Stat2(link); err != nil {
			return v, err
		}
		m.known[key] = st
	}
	path := s.Name
	label, named := strings.CutPrefix(path, "[anon_shmem:")
	if named {
		v.Name = "anon_shmem:" + strings.TrimSuffix(label, "]")
	}
	if named || strings.Contains(path, `\012`) { // not the path, or one with a line feed in it
		var err error
		if path, err = m.dir.Link(link); err != nil {
			return v, err
		}
	}
	path = trimDeleted(m.dir, path, &st)
	v.File = model.MappedFile{Path: path, Dev: st.Dev, Ino: st.Ino}
	v.Kind = m.kind(s, &st, path)
	if v.Kind == model.VMAOther || v.Kind == model.VMASysV || v.Kind == model.VMADevice {
		v.Name = path
	}
	return v, nil
}

// unnamed is the kernel's own name for a flag that has none.
const unnamed = "??"

// flags are the names of smaps, sorted, without soft-dirty.
func (m *mapper) flags(s *procfs.Smap) []string {
	flags := slices.DeleteFunc(s.Flags, func(f string) bool { return f == "sd" })
	if i := slices.Index(flags, unnamed); i >= 0 && slices.Contains(flags, "lo") && m.c.host.onFaultUnnamed() {
		flags[i] = "lf"
	}
	if slices.Contains(flags, unnamed) {
		m.c.block(fault.VMAFlag, "mapping "+s.Key()+" of pid "+strings.TrimPrefix(string(m.dir), "/proc/"),
			"the kernel has no name for one of its flags")
	}
	slices.Sort(flags)
	return flags
}

// anonymous tells the kind and name of a mapping without a file.
func anonymous(v *model.VMA, name string) {
	v.Kind, v.Name = model.VMAAnon, name
	label, named := strings.CutPrefix(name, "[anon:")
	switch {
	case named:
		v.Name = "anon:" + strings.TrimSuffix(label, "]")
	case name == "[vdso]":
		v.Kind = model.VMAVDSO
	case name == "[vvar]" || name == "[vvar_vclock]":
		v.Kind = model.VMAVVar
	case name != "" && name != "[heap]" && name != "[stack]":
		v.Kind = model.VMAOther
	}
}

// devZero is the device number of /dev/zero as stat(2) gives it.
const devZero = 1<<8 | 5

const tmpfsMagic = 0x01021994 // TMPFS_MAGIC, include/uapi/linux/magic.h

// kind tells how a mapping with a file is made again.
func (m *mapper) kind(s *procfs.Smap, st *unix.Stat_t, path string) model.VMAKind {
	internal := st.Dev == m.c.host.shmDev
	switch {
	case slices.Contains(s.Flags, "ht"):
		return model.VMAOther
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && (st.Rdev != devZero || s.Shared):
		return model.VMADevice
	case st.Mode&unix.S_IFMT == unix.S_IFCHR:
		return model.VMAFile
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return model.VMAOther
	case internal && strings.HasPrefix(path, "/SYSV"):
		return model.VMASysV
	case internal && path != "/dev/zero" && !strings.HasPrefix(path, "/memfd:"):
		return model.VMAOther
	case internal:
		return model.VMAShmem
	case st.Nlink == 0 && m.fileSystem(s) == tmpfsMagic:
		return model.VMAShmem
	case strings.HasPrefix(path, "/[aio]") || strings.HasPrefix(path, "anon_inode:"):
		return model.VMAOther
	}
	return model.VMAFile
}

// fileSystem returns the magic number of the file system of a mapped file, 0 if it cannot be told.
func (m *mapper) fileSystem(s *procfs.Smap) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(string(m.dir)+"/map_files/"+s.Key(), &fs) != nil {
		return 0
	}
	return fs.Type
}

// identity reads path, device and inode behind a link of a process directory.
func identity(dir procfs.Dir, name string) (model.MappedFile, error) {
	path, err := dir.Link(name)
	if err != nil {
		return model.MappedFile{}, err
	}
	st, err := dir.Stat2(name)
	if err != nil {
		return model.MappedFile{}, err
	}
	return model.MappedFile{Path: trimDeleted(dir, path, &st), Dev: st.Dev, Ino: st.Ino}, nil
}

// trimDeleted removes the kernel's note that a file has lost its name. A file that other names still lead to could also
// be one whose name ends like that: then the name leads to it.
func trimDeleted(dir procfs.Dir, path string, st *unix.Stat_t) string {
	plain, ok := strings.CutSuffix(path, procfs.Deleted)
	if !ok {
		return path
	}
	if st.Nlink > 0 {
		if named, err := dir.Stat2("root" + path); err == nil && named.Dev == st.Dev && named.Ino == st.Ino {
			return path
		}
	}
	return plain
}
