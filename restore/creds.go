package restore

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// ownCreds reads our own credentials: new processes start with them, and most keep them.
func ownCreds() (*model.Creds, error) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return nil, fmt.Errorf("read our credentials: %w", err)
	}
	c := &model.Creds{}
	caps := map[string]*uint64{
		"CapInh": &c.CapInh, "CapPrm": &c.CapPrm, "CapEff": &c.CapEff, "CapBnd": &c.CapBnd,
		"CapAmb": &c.CapAmb,
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		f := strings.Fields(value)
		switch name {
		case "Uid":
			err = scan(f, &c.UID, &c.EUID, &c.SUID, &c.FSUID)
		case "Gid":
			err = scan(f, &c.GID, &c.EGID, &c.SGID, &c.FSGID)
		case "Groups":
			c.Groups = make([]uint32, len(f))
			for i := range f {
				err = scan(f[i:i+1], &c.Groups[i])
			}
		default:
			if dst := caps[name]; dst != nil && len(f) == 1 {
				*dst, err = strconv.ParseUint(f[0], 16, 64)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("read our credentials: line %q: %w", line, err)
		}
	}
	secure, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	c.Securebits = uint32(secure)
	return c, err
}

func scan(f []string, dst ...*uint32) error {
	if len(f) != len(dst) {
		return fmt.Errorf("%d fields instead of %d", len(f), len(dst))
	}
	for i, d := range dst {
		n, err := strconv.ParseUint(f[i], 10, 32)
		if err != nil {
			return err
		}
		*d = uint32(n)
	}
	return nil
}

func sameCreds(a, b *model.Creds) bool {
	return a.UID == b.UID && a.EUID == b.EUID && a.SUID == b.SUID && a.FSUID == b.FSUID &&
		a.GID == b.GID && a.EGID == b.EGID && a.SGID == b.SGID && a.FSGID == b.FSGID &&
		slices.Equal(a.Groups, b.Groups) && a.CapInh == b.CapInh && a.CapPrm == b.CapPrm && a.CapEff == b.CapEff &&
		a.CapBnd == b.CapBnd && a.CapAmb == b.CapAmb && a.Securebits == b.Securebits
}

// setCreds changes the credentials of a thread from have to want, in an order in which every step still has the
// capability it needs: user ids under SECBIT_NO_SETUID_FIXUP so that they do not touch capabilities, then ambient,
// securebits and bounding set, the capability sets themselves last (capabilities(7)).
func setCreds(b *batch, want, have *model.Creds) {
	if sameCreds(want, have) {
		return
	}
	const noFixup, keepCaps = 1 << 2, 1 << 4
	b.call("keep capabilities", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, have.Securebits|noFixup|keepCaps)
	groups := inBytes{}
	for _, g := range want.Groups {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	b.call("set groups", unix.SYS_SETGROUPS, len(want.Groups), groups)
	b.call("set group ids", unix.SYS_SETRESGID, want.GID, want.EGID, want.SGID)
	b.callWant(ignore, "set the file system group id", unix.SYS_SETFSGID, want.FSGID)
	b.call("set user ids", unix.SYS_SETRESUID, want.UID, want.EUID, want.SUID)
	b.callWant(ignore, "set the file system user id", unix.SYS_SETFSUID, want.FSUID)
	capset(b, have.CapPrm, have.CapPrm, want.CapInh)
	if have.CapAmb != 0 {
		b.call("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0,
			0, 0)
	}
	for c := range 64 {
		if want.CapAmb&(1<<c) != 0 {
			b.call(fmt.Sprintf("raise ambient capability %d", c), unix.SYS_PRCTL, unix.PR_CAP_AMBIENT,
				unix.PR_CAP_AMBIENT_RAISE, c, 0, 0)
		}
	}
	for drop := have.CapBnd &^ want.CapBnd; drop != 0; drop &= drop - 1 {
		c := bits.TrailingZeros64(drop)
		b.call(fmt.Sprintf("drop capability %d from the bounding set", c), unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c)
	}
	b.call("set securebits", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, want.Securebits)
	capset(b, want.CapPrm, want.CapEff, want.CapInh)
}

// ignore accepts any result: setfsuid(2) and setfsgid(2) return the previous id.
func ignore(int64) error { return nil }

// capset appends a capset(2) with the version 3 layout: two words each of effective, permitted, inheritable.
func capset(b *batch, permitted, effective, inheritable uint64) {
	const version3 = 0x20080522
	header := binary.LittleEndian.AppendUint64(nil, version3)
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []uint64{effective, permitted, inheritable} {
			data = binary.LittleEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	b.call("set capabilities", unix.SYS_CAPSET, inBytes(header), inBytes(data))
}

// setSeccomp installs the filters, oldest first, while the thread still may; they are suspended until it is released.
func setSeccomp(b *batch, t *model.Thread) {
	for i, f := range t.Seccomp.Filters {
		var prog []byte // struct sock_fprog: length, padding, pointer
		at := b.argument(inBytes(f.Prog))
		prog = binary.LittleEndian.AppendUint64(prog, uint64(len(f.Prog)/8))
		prog = binary.LittleEndian.AppendUint64(prog, at)
		b.call(fmt.Sprintf("install seccomp filter %d", i), unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, f.Flags,
			inBytes(prog))
		b.flush() // at must not be left behind by a flush in the middle
	}
	if t.Seccomp.Mode == unix.SECCOMP_MODE_STRICT {
		b.call("enter strict seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_STRICT, 0, 0)
	}
	if t.NoNewPrivs {
		b.call("set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
}
