package fdtable

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

const kindPseudo = "pseudo"

var _ = register(kind{
	name: kindPseudo, silent: true, capture: capturePseudo, open: openPseudo,
})

// pseudoHow says what can be done about the files of a file system whose content the kernel makes up.
type pseudoHow int

const (
	pseudoNo     pseudoHow = iota // a real file system
	pseudoReopen                  // some of its files can be opened again: capturePseudo decides
	pseudoRefuse
)

// pseudoFS looks a file system up by its magic number (statfs(2), include/uapi/linux/magic.h).
func pseudoFS(magic int64) (pseudoHow, string) {
	switch magic {
	case unix.PROC_SUPER_MAGIC:
		return pseudoReopen, "proc"
	case unix.SYSFS_MAGIC:
		return pseudoReopen, "sysfs"
	case unix.CGROUP_SUPER_MAGIC:
		return pseudoReopen, "cgroup"
	case unix.CGROUP2_SUPER_MAGIC:
		return pseudoReopen, "cgroup2"
	case unix.ANON_INODE_FS_MAGIC:
		return pseudoRefuse, "an anonymous inode"
	case unix.BPF_FS_MAGIC:
		return pseudoRefuse, "bpf"
	case unix.DEBUGFS_MAGIC:
		return pseudoRefuse, "debugfs"
	case unix.TRACEFS_MAGIC:
		return pseudoRefuse, "tracefs"
	case unix.SECURITYFS_MAGIC:
		return pseudoRefuse, "securityfs"
	case unix.SELINUX_MAGIC:
		return pseudoRefuse, "selinuxfs"
	case unix.SMACK_MAGIC:
		return pseudoRefuse, "smackfs"
	case unix.NSFS_MAGIC:
		return pseudoRefuse, "nsfs"
	case unix.PSTOREFS_MAGIC:
		return pseudoRefuse, "pstore"
	case unix.EFIVARFS_MAGIC:
		return pseudoRefuse, "efivarfs"
	case unix.HUGETLBFS_MAGIC:
		return pseudoRefuse, "hugetlbfs"
	case unix.BINFMTFS_MAGIC:
		return pseudoRefuse, "binfmt_misc"
	case unix.BINDERFS_SUPER_MAGIC:
		return pseudoRefuse, "binderfs"
	case unix.RDTGROUP_SUPER_MAGIC:
		return pseudoRefuse, "resctrl"
	case unix.AUTOFS_SUPER_MAGIC:
		return pseudoRefuse, "autofs"
	case unix.USBDEVICE_SUPER_MAGIC:
		return pseudoRefuse, "usbfs"
	case unix.SECRETMEM_MAGIC:
		return pseudoRefuse, "secretmem"
	case unix.DMA_BUF_MAGIC:
		return pseudoRefuse, "a DMA buffer"
	case 0x19800202: // MQUEUE_MAGIC, ipc/mqueue.c
		return pseudoRefuse, "mqueue"
	case 0x65735543: // FUSE_CTL_SUPER_MAGIC, fs/fuse/control.c
		return pseudoRefuse, "fusectl"
	case 0x62656570: // CONFIGFS_MAGIC, fs/configfs/mount.c
		return pseudoRefuse, "configfs"
	case 0x67596969: // RPC_PIPEFS_SUPER_MAGIC
		return pseudoRefuse, "rpc_pipefs"
	case 0x6e667364: // NFSD_MAGIC
		return pseudoRefuse, "nfsd"
	case 0x50494446: // PID_FS_MAGIC
		return pseudoRefuse, "pidfs"
	}
	return pseudoNo, ""
}

// capturePseudo allows what says the same to whoever opens it: global files of /proc, and attributes opened for
// reading. The Go runtime, for one, keeps cgroup CPU limits open.
func capturePseudo(c *capturer, d *desc) error {
	fs, err := c.fsType(d)
	if err != nil {
		return err
	}
	_, name := pseudoFS(fs)
	if pid := procPid(d.Path); fs == unix.PROC_SUPER_MAGIC && pid != "" {
		return refuseProcPid(d, pid)
	}
	if _, ok, err := c.named(d); err != nil {
		return err
	} else if !ok {
		return d.refuse(fault.FDDeleted, "%s (%s) no longer leads to the open file", d.Path, name)
	}
	sysctl := fs == unix.PROC_SUPER_MAGIC && strings.HasPrefix(d.Path, "/proc/sys/")
	if writable(d.File) && !sysctl {
		return d.refuse(fault.FDPseudo, "%s (%s) is open for writing, and what was set up through it cannot be read out", d.Path, name)
	}
	if d.Path == "/proc/kmsg" {
		return d.refuse(fault.FDPseudo, "%s hands out each message once", d.Path)
	}
	d.Size, d.MTime = 0, 0
	return nil
}

// procPid returns the component of a path under /proc that names a process, "" if there is none.
func procPid(path string) string {
	rest, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return ""
	}
	first, _, _ := strings.Cut(rest, "/")
	if first == "" || strings.Trim(first, "0123456789") != "" {
		return ""
	}
	return first
}

func refuseProcPid(d *desc, pid string) *fault.Error {
	return d.refuse(fault.FDPseudo, "%s describes process %s as it is now; a restored process is a new one, and its file another file", d.Path, pid).
		WithRemedy("let the program close the file first; programs that keep it open usually open it again by themselves")
}

// openPseudo opens the file again and puts its position back.
func openPseudo(b *builder, f *model.File) (int, error) {
	if typ := f.Mode & unix.S_IFMT; typ != unix.S_IFREG && typ != unix.S_IFDIR {
		return -1, fault.New(fault.FDRecord, fileObject(f), "a file of type %#o", typ)
	}
	if err := b.checkNamed(f); err != nil {
		return -1, err
	}
	fd, err := b.openNamed(f, f.Mode&unix.S_IFMT)
	if err != nil {
		return -1, err
	}
	if f.Pos == 0 {
		return fd, nil
	}
	return b.seek(f, fd)
}
