package tracer

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// userDev turns the kernel's dev_t (include/linux/kdev_t.h: major << 20 | minor) into the one of stat(2)
// (new_encode_dev).
func userDev(dev uint32) uint64 {
	major, minor := dev>>20, dev&(1<<20-1)
	return uint64(minor&0xff | major<<8 | minor&^0xff<<12)
}

// kernelDev is the reverse of userDev.
func kernelDev(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

// Super block magic numbers (include/uapi/linux/magic.h) and flags (include/linux/fs.h).
const (
	magicTmpfs  = 0x01021994
	sbKernMount = 1 << 22 // a mount that no user made: shared anonymous memory, pipes, sockets, anonymous inodes
)

// plainFS are the file systems whose inodes stat(2) reports with the super block's device and the inode's own number.
// Others (overlay, btrfs, network file systems) have answers of their own, and are asked.
var plainFS = map[uint64]bool{
	magicTmpfs: true,
	0xEF53:     true, // ext2, ext3, ext4
	0x58465342: true, // xfs
	0xF2F52010: true, // f2fs
	0x858458f6: true, // ramfs
	0x73717368: true, // squashfs
	0x4d44:     true, // vfat
	0x9fa0:     true, // proc
	0x62656572: true, // sysfs
	0x1cd1:     true, // devpts
	0x64626720: true, // debugfs
	0x74726163: true, // tracefs
	0x27e0eb:   true, // cgroup
	0x63677270: true, // cgroup2
	0x50495045: true, // pipefs
	0x534F434B: true, // sockfs
	0x09041934: true, // anonymous inodes
	0x19800202: true, // mqueue
}

// doubtful reports whether stat(2) may say something else than the inode.
func doubtful(i *bpf.IterInodeRec) bool {
	return i.Bits&uint32(bpf.IterInodeBitINODE_BACKING) != 0 || !plainFS[i.Magic]
}
