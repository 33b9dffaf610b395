package fdtable

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// Types of lock as the kernel names them (fs/locks.c).
const (
	lockFlock = "FLOCK"
	lockPosix = "POSIX"
	lockOFD   = "OFDLCK"
)

// captureLocks records the file locks of the tree: fdinfo tells whose lock it is. It is read only where the source does
// not know better; /proc/locks, which would tell of all at once, makes its reader wait for an RCU grace period, and the
// tree stands still.
func (c *capturer) captureLocks() {
	posix := posixLocks{}
	for _, d := range c.descs {
		if d.Flags&unix.O_PATH != 0 || d.Unlocked {
			continue
		}
		for i, r := range d.refs {
			if err := c.locksOf(d, r, i == 0, posix); err != nil {
				c.add(d, err)
			}
		}
	}
	c.faults = append(c.faults, posix.unplaced()...)
}

// locksOf reads the locks fdinfo shows for one descriptor: those of the description itself once, those of the process
// for every process.
func (c *capturer) locksOf(d *desc, r ref, first bool, posix posixLocks) error {
	info, err := procfs.Pid(r.pid).FDInfo(r.fd)
	if err != nil {
		return err
	}
	for _, l := range info.Locks {
		lock := lockOf(l)
		switch lock.Type {
		case lockFlock, lockOFD:
			if first {
				d.Locks = append(d.Locks, lock)
			}
		case lockPosix:
			lock.Pid = r.pid
			posix.add(d, r, lock)
		case "LEASE", "DELEG":
			return d.refuse(fault.FDLease, "it holds a lease on %s", d.Path)
		default:
			return d.refuse(fault.FDInfo, "it has a lock of the unknown type %s", lock.Type)
		}
		if d.Std != 0 {
			return d.refuse(fault.FDState, "it holds a lock on %s, which is outside the tree", d.Path)
		}
	}
	return nil
}

// lockOf is the record of a lock that fdinfo shows.
func lockOf(l procfs.FDLock) model.Lock {
	return model.Lock{Type: l.Type, Write: l.Mode == "WRITE", Start: l.Start, End: l.End, Pid: l.Pid}
}

// posixLocks collects the locks of processes: fdinfo shows one at every descriptor of the file in the process, and it
// is taken again through one whose access mode allows it.
type posixLocks map[posixKey]*posixLock

type posixKey struct {
	file fileKey
	lock model.Lock
}

type posixLock struct {
	ref    ref
	placed bool
}

func (p posixLocks) add(d *desc, r ref, lock model.Lock) {
	key := posixKey{fileKey{d.Dev, d.Ino}, lock}
	l := p[key]
	if l == nil {
		l = &posixLock{ref: r}
		p[key] = l
	}
	if !l.placed && (lock.Write && writable(d.File) || !lock.Write && readable(d.File)) {
		d.Locks = append(d.Locks, lock)
		l.placed = true
	}
}

// unplaced returns a fault for each lock that no descriptor left open could take again.
func (p posixLocks) unplaced() []*fault.Error {
	var out []*fault.Error
	for _, l := range p {
		if !l.placed {
			out = append(out, fault.New(fault.FDState, l.ref.object(),
				"its process holds a lock that no descriptor it has open could take again"))
		}
	}
	return out
}

// takeLocks takes the locks that belong to the description behind fd alone, and looks whether the others can be taken.
func takeLocks(f *model.File, fd int) error {
	for _, l := range f.Locks {
		var err error
		switch l.Type {
		case lockFlock:
			how := unix.LOCK_SH
			if l.Write {
				how = unix.LOCK_EX
			}
			// The kernel remembers who took it: a process will (Steps). Here we only find out early whether it can.
			if err = unix.Flock(fd, how|unix.LOCK_NB); err == nil {
				err = unix.Flock(fd, unix.LOCK_UN)
			}
		case lockOFD:
			lk := flockT(l)
			err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lk)
		case lockPosix:
			lk := flockT(l) // ours would conflict with nobody of the tree, but is not the one that counts: only ask
			if err = unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lk); err == nil && lk.Type != unix.F_UNLCK {
				return fault.New(fault.FDLocked, f.Path, "pid %d holds a lock on it", lk.Pid)
			}
		default:
			return fault.New(fault.FDRecord, fileObject(f), "a lock of the unknown type %q", l.Type)
		}
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return fault.New(fault.FDLocked, f.Path, "another process holds a lock on it")
		}
		if err != nil {
			return fault.New(fault.FDRebuild, fileObject(f), "lock it: %w", err)
		}
	}
	return nil
}

// flockT is the lock as fcntl(2) takes it.
func flockT(l model.Lock) unix.Flock_t {
	lk := unix.Flock_t{Type: unix.F_RDLCK, Whence: unix.SEEK_SET, Start: l.Start}
	if l.Write {
		lk.Type = unix.F_WRLCK
	}
	if l.End >= 0 {
		lk.Len = l.End - l.Start + 1
	}
	return lk
}

// lockSteps are the calls with which process pid takes locks of f: its own POSIX locks, and flock(2) locks that it took
// before, or that were taken by a process that has not got the description any more.
func (t *Table) lockSteps(f *model.File, pid int) []Step {
	var steps []Step
	for _, l := range f.Locks {
		holder, num := t.holder(f.ID, l.Pid)
		if holder < 0 && l.Type == lockFlock {
			holder, num = t.holder(f.ID, 0)
		}
		switch {
		case holder != pid:
		case l.Type == lockPosix:
			steps = append(steps, fcntlStep(num, unix.F_SETLK, flockBytes(l), "lock "+f.Path))
		case l.Type == lockFlock:
			how := unix.LOCK_SH
			if l.Write {
				how = unix.LOCK_EX
			}
			steps = append(steps, Step{
				Call: unix.SYS_FLOCK, Args: []uint64{uint64(num), uint64(how | unix.LOCK_NB)},
				Want: "lock " + f.Path,
			})
		}
	}
	return steps
}

// flockBytes is the lock as struct flock of 64-bit machines.
func flockBytes(l model.Lock) []byte {
	lk := flockT(l)
	data := binary.NativeEndian.AppendUint16(nil, uint16(lk.Type))
	data = binary.NativeEndian.AppendUint16(data, uint16(lk.Whence))
	data = append(data, 0, 0, 0, 0)
	data = binary.NativeEndian.AppendUint64(data, uint64(lk.Start))
	data = binary.NativeEndian.AppendUint64(data, uint64(lk.Len))
	return append(data, make([]byte, 8)...) // l_pid and padding
}
