package restore

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/plan"
)

// handover is the socket through which processes get descriptors of ours.
type handover struct {
	j    *journal
	ours *os.File // nil until open
}

// open makes the socket and returns its far end.
func (h *handover) open() (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the hand-over socket: %w", err)
	}
	h.ours = os.NewFile(uintptr(pair[0]), "hand-over")
	h.j.onEnd(func() { h.ours.Close() })
	return os.NewFile(uintptr(pair[1]), "hand-over, far end"), nil
}

// clearDescriptors leaves a process nothing but the socket, which moves out of the way of the descriptors to come.
func (p *process) clearDescriptors() error {
	p.socket = plan.FreeNumber(p.rec.FDs)
	b := p.batch(p.lead)
	if p.socket != stubSocket {
		b.call("move the socket", unix.SYS_DUP3, stubSocket, p.socket, 0)
	}
	closeOthers(b, p.socket)
	return b.done()
}

// closeOthers closes every descriptor but the socket, those too that whoever started us left open.
func closeOthers(b *batch, socket int) {
	if socket > 0 {
		b.call("close descriptors", unix.SYS_CLOSE_RANGE, 0, socket-1, 0)
	}
	b.call("close descriptors", unix.SYS_CLOSE_RANGE, socket+1, math.MaxUint32, 0)
}

// arrival is the number under which the process gets the i-th of the descriptors handed over while it has none but the
// socket.
func (p *process) arrival(i int) int {
	if i < p.socket {
		return i
	}
	return i + 1
}

// send sends descriptors of ours to a process, which gets them in order under its lowest free numbers.
func (h *handover) send(p *process, fds []int) error {
	b := p.batch(p.lead)
	total := len(fds)
	for len(fds) > 0 {
		n := min(len(fds), plan.MaxFDs)
		if err := unix.Sendmsg(int(h.ours.Fd()), []byte{0}, unix.UnixRights(fds[:n]...), nil, 0); err != nil {
			return fmt.Errorf("hand descriptors over to %s: %w", p.object(), err)
		}
		fds = fds[n:]
		recvDescriptors(b, p.socket)
		b.flush()
	}
	if total > 0 {
		b.call("check the descriptors handed over", unix.SYS_FCNTL, p.arrival(total-1), unix.F_GETFD, 0)
	}
	return b.done()
}

// recvDescriptors appends a recvmsg(2) with room for a full message of descriptors.
func recvDescriptors(b *batch, socket int) {
	control := unix.CmsgSpace(4 * plan.MaxFDs)
	if len(b.data)+control+256 > dataRoom {
		b.flush()
	}
	payload := b.argument(out(16))
	iov := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, payload), 1)
	iovAt := b.argument(inBytes(iov))
	controlAt := b.argument(out(control))
	var hdr []byte // struct msghdr: name, namelen, iov, iovlen, control, controllen, flags
	for _, v := range []uint64{0, 0, iovAt, 1, controlAt, uint64(control), 0} {
		hdr = binary.LittleEndian.AppendUint64(hdr, v)
	}
	b.callWant(exactly(1), "receive descriptors", unix.SYS_RECVMSG, socket, inBytes(hdr), 0)
}
