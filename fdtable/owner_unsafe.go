package fdtable

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// getOwnerUIDs is F_GETOWNER_UIDS (include/uapi/asm-generic/fcntl.h), in kernels with CONFIG_CHECKPOINT_RESTORE.
const getOwnerUIDs = 17

// getOwner reads the owner and the signal of the description behind our descriptor fd (fcntl(2)).
func getOwner(fd int) (model.FOwner, error) {
	var ex struct{ Type, Pid int32 }
	if err := fcntlPtr(fd, unix.F_GETOWN_EX, unsafe.Pointer(&ex)); err != nil {
		return model.FOwner{}, err
	}
	sig, err := unix.FcntlInt(uintptr(fd), unix.F_GETSIG, 0)
	if err != nil {
		return model.FOwner{}, err
	}
	own := model.FOwner{Type: int(ex.Type), ID: int(ex.Pid), Signal: sig}
	if own.ID == 0 {
		own.Type = 0
		return own, nil
	}
	var uids [2]uint32
	if err := fcntlPtr(fd, getOwnerUIDs, unsafe.Pointer(&uids)); err == nil {
		own.UID, own.EUID = uids[0], uids[1]
	}
	return own, nil
}

// Commands for the expected life time of what is written to an inode (include/uapi/linux/fcntl.h,
// F_LINUX_SPECIFIC_BASE).
const (
	getRWHint = 1024 + 11 // F_GET_RW_HINT
	setRWHint = 1024 + 12 // F_SET_RW_HINT
)

// lifeHint reads the hint of the inode behind our descriptor, 0 for none.
func lifeHint(fd int) (hint uint64, err error) {
	err = fcntlPtr(fd, getRWHint, unsafe.Pointer(&hint))
	return hint, err
}

func setLifeHint(fd int, hint uint64) error { return fcntlPtr(fd, setRWHint, unsafe.Pointer(&hint)) }

func fcntlPtr(fd, cmd int, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), uintptr(cmd), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func ownerText(own model.FOwner) string {
	kind := map[int]string{ownerTID: "thread ", ownerPID: "process ", ownerPGRP: "process group "}[own.Type]
	return kind + strconv.Itoa(own.ID)
}
