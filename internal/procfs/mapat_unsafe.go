package procfs

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapQuery is struct procmap_query (include/uapi/linux/fs.h, Linux 6.11).
type mapQuery struct {
	size, queryFlags, addr uint64
	start, end             uint64
	flags                  uint64 // PROCMAP_QUERY_VMA_*: the first three are those of mmap's prot
	pageSize, offset, ino  uint64
	major, minor           uint32
	nameSize, buildIDSize  uint32
	name                   unsafe.Pointer
	buildID                uint64
}

const (
	ioctlMapQuery = 3<<30 | 104<<16 | 'f'<<8 | 17 // PROCMAP_QUERY
	mapProt       = 7
	mapShared     = 8
	vsyscall      = "[vsyscall]"
)

// MapAt returns the mapping that an address is in, nil if in none; [vsyscall], which is every process's, is none. Before Linux 6.11 it reads all of maps for that.
func (d Dir) MapAt(addr uint64) (*Map, error) {
	f, err := os.Open(string(d) + "/maps")
	if err != nil {
		return nil, d.fail("maps", err)
	}
	defer f.Close()
	name := make([]byte, unix.PathMax)
	q := mapQuery{addr: addr, nameSize: uint32(len(name)), name: unsafe.Pointer(unsafe.SliceData(name))}
	q.size = uint64(unsafe.Sizeof(q))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlMapQuery, uintptr(unsafe.Pointer(&q)))
	runtime.KeepAlive(name)
	switch errno {
	case 0:
		return &Map{
			Start: q.start, End: q.end, Prot: uint32(q.flags & mapProt), Shared: q.flags&mapShared != 0,
			Offset: q.offset, Major: q.major, Minor: q.minor, Ino: q.ino,
			Name: strings.ReplaceAll(unix.ByteSliceToString(name[:q.nameSize]), "\n", `\012`),
		}, nil
	case unix.ENOENT:
		return nil, nil
	case unix.ENOTTY, unix.EINVAL:
		return d.searchMaps(addr)
	}
	return nil, d.fail("maps", errno)
}

func (d Dir) searchMaps(addr uint64) (*Map, error) {
	maps, err := d.Maps()
	i, _ := slices.BinarySearchFunc(maps, addr, func(m Map, addr uint64) int {
		if m.End <= addr {
			return -1
		}
		return 1
	})
	if err != nil || i == len(maps) || maps[i].Start > addr || maps[i].Name == vsyscall {
		return nil, err
	}
	return &maps[i], nil
}
