package restore

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// attributes are what belongs to all threads of a process.
type attributes struct {
	pidNS       bool // in a pid namespace of their own
	descriptors *descriptors
	terminals   *terminals
}

// set gives a process what belongs to all its threads and needs our rights: directories, handlers, flags of
// the address space.
func (a *attributes) set(p *process) error {
	rec := p.rec
	b := p.batch(p.lead)
	b.callWant(ignore, "set umask", unix.SYS_UMASK, rec.Umask) // returns the old one
	cwd := rec.Cwd
	if rec.CwdGone != nil {
		if a.pidNS {
			return fault.New(fault.PidNS, p.object(),
				"its working directory %s was removed, and is not made again there yet", rec.Cwd).
				WithRemedy("restore it under its own ids, without a pid namespace, when they are free")
		}
		fd, err := a.descriptors.rebuilder().RemovedDir(rec.Cwd, rec.CwdGone)
		if err != nil {
			return err
		}
		cwd = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	}
	b.call("change to "+rec.Cwd, unix.SYS_CHDIR, inString(cwd))
	if rec.Root != "/" {
		b.call("change the root to "+rec.Root, unix.SYS_CHROOT, inString(rec.Root))
	}
	if rec.Subreaper {
		b.call("become a subreaper", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1)
	}
	for i := range rec.Actions {
		act := &rec.Actions[i]
		if unix.Signal(act.Signal) != unix.SIGTRAP { // see lastCalls
			b.call(fmt.Sprintf("set the action of signal %d", act.Signal), unix.SYS_RT_SIGACTION, act.Signal,
				inBytes(actionBytes(act)), 0, sigsetSize)
		}
	}
	setMMFlags(b, &rec.MM)
	a.terminals.take(b, p)
	if err := b.done(); err != nil {
		return err
	}
	if err := p.setProcFiles(); err != nil {
		return err
	}
	return p.sealMappings()
}

const sigsetSize = 8

// actionBytes is the kernel's struct sigaction on x86-64: handler, flags, restorer, mask.
func actionBytes(a *model.SigAction) []byte {
	var s []byte
	for _, v := range []uint64{a.Handler, a.Flags, a.Restorer, a.Mask} {
		s = binary.LittleEndian.AppendUint64(s, v)
	}
	return s
}

func setMMFlags(b *batch, mm *model.MM) {
	for bits := mm.Membarrier; bits != 0; bits &= bits - 1 {
		b.call("register for membarrier", unix.SYS_MEMBARRIER, bits&-bits, 0, 0)
	}
	if mm.THPAdvised {
		b.call("disable huge pages but where advised", unix.SYS_PRCTL, prSetTHPDisable, 1, thpExceptAdvised, 0, 0)
	}
	if mm.KSMMerge {
		b.call("merge pages", unix.SYS_PRCTL, prSetMemoryMerge, 1, 0, 0, 0)
	}
	if mm.FutexSlots != 0 {
		b.call("choose the hash of futexes", unix.SYS_PRCTL, prFutexHash, futexSetSlots, max(mm.FutexSlots, 0), 0, 0)
	}
	if mm.MDWE != 0 {
		b.call("deny writing and executing memory", unix.SYS_PRCTL, prSetMDWE, mm.MDWE, 0, 0, 0)
	}
}

// setProcFiles sets from outside what only files below /proc/PID can set: the OOM score adjustment
// (proc_pid_oom_score_adj(5)), which to lower needs CAP_SYS_RESOURCE, what a core dump holds (core(5)), and how nice a
// session is as a whole (sched(7)).
func (p *process) setProcFiles() error {
	if p.rec.Autogroup != 0 && p.rec.Sid == p.rec.Pid {
		name := fmt.Sprintf("/proc/%d/autogroup", p.pid)
		if err := os.WriteFile(name, []byte(strconv.Itoa(p.rec.Autogroup)), 0); err != nil {
			return fmt.Errorf("set the nice value of the session of %s: %w", p.object(), err)
		}
	}
	for _, f := range []struct {
		name, format string
		value        any
	}{
		{"oom_score_adj", "%d", p.rec.OOMScoreAdj},
		{"coredump_filter", "%08x", p.rec.MM.CoredumpFilter},
	} {
		name := fmt.Sprintf("/proc/%d/%s", p.pid, f.name)
		have, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read %s of %s: %w", f.name, p.object(), err)
		}
		want := fmt.Sprintf(f.format, f.value)
		if strings.TrimSpace(string(have)) == want {
			continue
		}
		if f.name == "coredump_filter" {
			want = "0x" + want
		}
		if err := os.WriteFile(name, []byte(want), 0); err != nil {
			return fmt.Errorf("set %s of %s to %s: %w", f.name, p.object(), want, err)
		}
	}
	return nil
}
