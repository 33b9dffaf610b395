package fdtable

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Constants of include/uapi/linux/sock_diag.h and unix_diag.h.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	udiagShowPeer    = 4  // UDIAG_SHOW_PEER
	unixDiagPeer     = 2  // UNIX_DIAG_PEER
	nlHeader         = 16 // sizeof(struct nlmsghdr)
	unixDiagRequest  = 24 // sizeof(struct unix_diag_req)
	unixDiagMessage  = 16 // sizeof(struct unix_diag_msg)
)

// unixPeer returns the inode number of the socket that Unix socket ino is connected to, 0 if it is to none
// (sock_diag(7)).
func unixPeer(ino uint32) (uint32, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Sendto(fd, peerRequest(ino), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	return parsePeer(buf[:n], ino)
}

func peerRequest(ino uint32) []byte {
	e := binary.NativeEndian
	b := e.AppendUint32(nil, nlHeader+unixDiagRequest)
	b = e.AppendUint16(b, sockDiagByFamily)
	b = e.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, make([]byte, 8)...)    // sequence number, port
	b = append(b, unix.AF_UNIX, 0, 0, 0) // family, protocol, padding
	b = e.AppendUint32(b, 0xffffffff)    // all states
	b = e.AppendUint32(b, ino)           //
	b = e.AppendUint32(b, udiagShowPeer) // what to tell
	return e.AppendUint64(b, ^uint64(0)) // INET_DIAG_NOCOOKIE, twice
}

// parsePeer reads the answer about socket ino.
func parsePeer(b []byte, ino uint32) (uint32, error) {
	e := binary.NativeEndian
	if len(b) < nlHeader || int(e.Uint32(b)) > len(b) || e.Uint32(b) < nlHeader {
		return 0, fmt.Errorf("sock_diag: an answer of %d bytes", len(b))
	}
	typ, body := e.Uint16(b[4:]), b[nlHeader:e.Uint32(b)]
	switch {
	case typ == unix.NLMSG_ERROR && len(body) >= 4:
		return 0, fmt.Errorf("sock_diag: %w", unix.Errno(-int32(e.Uint32(body))))
	case typ != sockDiagByFamily || len(body) < unixDiagMessage || e.Uint32(body[4:]) != ino:
		return 0, fmt.Errorf("sock_diag: an answer of type %d", typ)
	}
	for attr := body[unixDiagMessage:]; len(attr) >= 4; {
		size := int(e.Uint16(attr))
		if size < 4 || size > len(attr) {
			return 0, fmt.Errorf("sock_diag: an attribute of %d bytes", size)
		}
		if e.Uint16(attr[2:]) == unixDiagPeer && size >= 8 {
			return e.Uint32(attr[4:]), nil
		}
		attr = attr[min(len(attr), (size+3)&^3):]
	}
	return 0, nil
}
