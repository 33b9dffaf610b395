package fdtable

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

const kindSocket = "socket"

var _ = register(kind{
	name: kindSocket, silent: true, capture: captureSocket, open: openStdOnly,
	is: func(d *desc) bool { return d.hasType(unix.S_IFSOCK) },
})

// captureSocket re-attaches a socket that is a standard stream and refuses any other, saying what it is connected to.
func captureSocket(c *capturer, d *desc) error {
	fd, err := c.dup(d)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if d.std == 0 {
		return d.refuse(fault.FDSocket, "it is %s", describeSocket(fd))
	}
	if sockInt(fd, unix.SO_DOMAIN) == unix.AF_UNIX {
		if err := c.refuseInnerPair(d, fd); err != nil {
			return err
		}
	}
	d.Std = d.std
	return nil
}

// refuseInnerPair finds a standard stream that is one of a pair of sockets whose other one is in the tree too. Only a
// pair has a nameless peer.
func (c *capturer) refuseInnerPair(d *desc, fd int) error {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return nil // not connected, or no longer
	}
	if addrText(sa) != "" {
		return nil
	}
	others := map[uint32]*desc{}
	for _, o := range c.descs {
		if o != d && o.Mode&unix.S_IFMT == unix.S_IFSOCK {
			others[uint32(o.Ino)] = o
		}
	}
	if len(others) == 0 {
		return nil
	}
	peer, err := unixPeer(uint32(d.Ino))
	if err != nil {
		return d.refuse(fault.FDSocket, "the kernel does not tell who it is connected to: %w", err).
			WithRemedy("load the module unix_diag, or let the program close the socket first")
	}
	if o := others[peer]; o != nil {
		return d.refuse(fault.FDSocket, "it is a Unix socket connected to fd %d of pid %d, in the tree", o.fd, o.pid)
	}
	return nil
}

// socketFamilies are the names of the common address families (socket(2)).
var socketFamilies = map[int]string{
	unix.AF_UNIX: "Unix", unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6", unix.AF_NETLINK: "netlink",
	unix.AF_PACKET: "packet",
	unix.AF_VSOCK:  "vsock", unix.AF_ALG: "kernel crypto", unix.AF_BLUETOOTH: "Bluetooth", unix.AF_CAN: "CAN",
	unix.AF_XDP:  "XDP",
	unix.AF_TIPC: "TIPC", unix.AF_KEY: "key management",
}

var socketTypes = map[int]string{
	unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_SEQPACKET: "seqpacket", unix.SOCK_RAW: "raw",
	unix.SOCK_RDM: "rdm",
}

// tcpStates are the values of tcp_info.tcpi_state (include/net/tcp_states.h).
var tcpStates = map[uint8]string{
	1: "established", 2: "connecting", 3: "connecting", 4: "closing", 5: "closing", 6: "closed by both sides",
	7: "unconnected",
	8: "closed by the peer", 9: "closing", 10: "listening", 11: "closing", 12: "connecting",
}

// describeSocket says family, type, state, own address and peer of the socket behind our descriptor.
func describeSocket(fd int) string {
	family := sockInt(fd, unix.SO_DOMAIN)
	typ := sockInt(fd, unix.SO_TYPE)
	proto := sockInt(fd, unix.SO_PROTOCOL)
	text := named(socketFamilies, family, "family ") + " " + named(socketTypes, typ, "type ")
	if family == unix.AF_INET || family == unix.AF_INET6 {
		text = ipName(family, typ, proto)
	}
	text = article(text) + " socket"
	if state := socketState(fd, family, typ, proto); state != "" {
		text += ", " + state
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		if a := addrText(sa); a != "" {
			text += ", at " + a
		}
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		if a := addrText(sa); a != "" {
			text += ", peer " + a
		} else if family == unix.AF_UNIX {
			text += peerText(fd)
		}
	}
	return text
}

func sockInt(fd, opt int) int {
	v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
	if err != nil {
		return -1
	}
	return v
}

func named(names map[int]string, key int, unknown string) string {
	if n, ok := names[key]; ok {
		return n
	}
	return fmt.Sprint(unknown, key)
}

func article(s string) string {
	switch s[0] {
	case 'A', 'E', 'I', 'O', 'a', 'e', 'i', 'o':
		return "an " + s
	}
	return "a " + s
}

func ipName(family, typ, proto int) string {
	v := socketFamilies[family]
	switch {
	case proto == unix.IPPROTO_TCP:
		return v + " TCP"
	case proto == unix.IPPROTO_UDP:
		return v + " UDP"
	case proto == unix.IPPROTO_ICMP, proto == unix.IPPROTO_ICMPV6:
		return v + " ICMP"
	}
	return fmt.Sprintf("%s %s (protocol %d)", v, named(socketTypes, typ, "type "), proto)
}

func socketState(fd, family, typ, proto int) string {
	if proto == unix.IPPROTO_TCP && (family == unix.AF_INET || family == unix.AF_INET6) {
		if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			return tcpStates[info.State]
		}
	}
	if sockInt(fd, unix.SO_ACCEPTCONN) == 1 {
		return "listening"
	}
	_, err := unix.Getpeername(fd)
	switch {
	case err == nil:
		return "connected"
	case errors.Is(err, unix.ENOTCONN) && typ != unix.SOCK_DGRAM:
		return "unconnected"
	}
	return ""
}

// addrText writes an address, "" for one that says nothing.
func addrText(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrUnix:
		if a.Name != "@" { // which is how package unix writes no name
			return a.Name
		}
	case *unix.SockaddrNetlink:
		return fmt.Sprintf("port %d", a.Pid)
	}
	return ""
}

func peerText(fd int) string {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Pid == 0 {
		return ""
	}
	return fmt.Sprintf(", peer of pid %d", cred.Pid)
}
