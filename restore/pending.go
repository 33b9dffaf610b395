package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/internal/sigs"
	"github.com/bpfckpt/bpfckpt/model"
)

// signals is what was on its way to processes, and what stops them.
type signals struct {
	processes []model.Process // of the image
	stopped   bool            // Options.Stopped
}

// queue queues what was pending, with its siginfo. Each thread queues its own: only to itself may a thread send
// what the kernel would have sent (rt_sigqueueinfo(2)). A pending SIGTRAP comes in lastCalls, a pending SIGSTOP in
// queueStops.
func (s *signals) queue(p *process) error {
	if err := s.settleChildren(p); err != nil {
		return err
	}
	if err := s.continueAgain(p); err != nil { // the stop takes a pending SIGCONT away, and the SIGCONT stop signals
		return err
	}
	for i := range p.rec.Threads {
		b := p.batch(p.threads[i])
		if i == 0 {
			for _, info := range p.rec.Pending {
				if sig := signalOf(info); queues(p.rec, info) {
					b.callWant(p.queueVerdict, fmt.Sprintf("queue signal %d", sig), unix.SYS_RT_SIGQUEUEINFO, p.rec.Pid,
						int(sig), inBytes(info))
				}
			}
		}
		for _, info := range p.rec.Threads[i].Pending {
			if sig := signalOf(info); queues(p.rec, info) {
				b.callWant(p.queueVerdict, fmt.Sprintf("queue signal %d", sig), unix.SYS_RT_TGSIGQUEUEINFO, p.rec.Pid,
					p.rec.Threads[i].Tid, int(sig), inBytes(info))
			}
		}
		if err := b.done(); err != nil {
			return err
		}
	}
	return nil
}

// queues reports whether signals.queue is to queue a pending signal.
func queues(rec *model.Process, info model.SigInfo) bool {
	sig := signalOf(info)
	return sig != unix.SIGTRAP && sig != unix.SIGSTOP && !comesAgain(rec, info)
}

// queueVerdict explains the one way in which queueing fails.
func (p *process) queueVerdict(result int64) error {
	err := errnoOf(result)
	if errors.Is(err, unix.EAGAIN) {
		return fault.New(fault.RestoreState, p.object(), "more signals are pending than may be here: %w", err).
			WithRemedy("raise the hard limit of pending signals of the shell that runs the restore (ulimit -H -i), or give it CAP_SYS_RESOURCE")
	}
	return err
}

// signalOf reads si_signo.
func signalOf(info model.SigInfo) unix.Signal { return unix.Signal(sigs.Number(info)) }

// firstRealTime is the first signal that is queued as often as it is sent, see signal(7).
const firstRealTime = unix.Signal(32)

// settleChildren takes back what our own making of dead and stopped children did to a process: the signals that are
// pending, and the news of a stop which it had waited for already.
func (s *signals) settleChildren(p *process) error {
	b := p.batch(p.lead)
	for i := range s.processes {
		c := &s.processes[i]
		if c.PPid == p.rec.Pid && c.StopTold { // __WALL: it may have an exit signal of its own
			b.callWant(exactly(uint64(c.Pid)), fmt.Sprintf("wait for the stop of pid %d", c.Pid), unix.SYS_WAIT4, c.Pid,
				0,
				unix.WUNTRACED|unix.WNOHANG|unix.WALL, 0)
		}
	}
	for _, sig := range childSignals(s.processes, p.rec.Pid, s.stopped) {
		b.takeBack(sig, except(unix.EAGAIN), fmt.Sprintf("take signal %d of a child back", sig))
	}
	return b.done()
}

// continueAgain lets a process that was continued be so again, for the parent to be told of it: it is stopped, and
// continued by a SIGCONT, which is then taken back.
func (s *signals) continueAgain(p *process) error {
	if !p.rec.Continued || !slices.ContainsFunc(s.processes,
		func(o model.Process) bool { return o.Pid == p.rec.PPid }) {
		return nil
	}
	if err := ptrace.StopGroup(p.threads, unix.SIGSTOP); err != nil {
		return err
	}
	if err := ptrace.ContinueGroup(p.threads); err != nil {
		return err
	}
	b := p.batch(p.lead)
	b.takeBack(unix.SIGCONT, exactly(uint64(unix.SIGCONT)), "take the SIGCONT back that continued it")
	return b.done()
}

// takeBack takes a pending signal of the process.
func (b *batch) takeBack(sig unix.Signal, want func(int64) error, what string) {
	set := binary.LittleEndian.AppendUint64(nil, 1<<(uint(sig)-1))
	b.callWant(want, what, unix.SYS_RT_SIGTIMEDWAIT, inBytes(set), 0, inBytes(timespec(0)), sigsetSize)
}

// childSignals is what the making of the dead and stopped children of pid queues for it, in the order of the processes:
// SIGCHLD for a stop, its exit signal for a death (clone(2)). A standard signal is queued once, however many send it; a
// real-time one each time.
func childSignals(processes []model.Process, pid int, stopped bool) []unix.Signal {
	var signals []unix.Signal
	add := func(sig unix.Signal) {
		if sig != 0 && (sig >= firstRealTime || !slices.Contains(signals, sig)) {
			signals = append(signals, sig)
		}
	}
	for i := range processes {
		c := &processes[i]
		if c.PPid != pid {
			continue
		}
		if c.Zombie {
			add(unix.Signal(c.ExitSignal))
		}
		if c.Stopped != 0 || c.Continued || stopped {
			add(unix.SIGCHLD)
		}
	}
	return signals
}

// stop puts a process into its job-control stop. It is the last that happens to it before its release; its parent comes
// after it, see settleChildren.
func (s *signals) stop(p *process) error {
	sig := stopSignal(p.rec, s.stopped)
	if sig == 0 {
		return nil
	}
	if err := p.j.step("stop"); err != nil {
		return err
	}
	return ptrace.StopGroup(p.threads, sig)
}

// stopSignal is the signal that leaves a process in a job-control stop, 0 if it is to run. One that stopped the process
// although it has an action of its own, as it can have under a debugger, does not do so again.
func stopSignal(rec *model.Process, stopped bool) unix.Signal {
	if rec.Stopped == 0 && !stopped {
		return 0
	}
	for i := range rec.Actions {
		if a := &rec.Actions[i]; a.Signal == rec.Stopped && a.Handler != 0 {
			return unix.SIGSTOP
		}
	}
	switch sig := unix.Signal(rec.Stopped); sig {
	case unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return sig
	}
	return unix.SIGSTOP
}

// queueStops queues the SIGSTOP that was on its way to a process at the snapshot. It acts as soon as the process is
// released; what is pending besides comes before it or after it, in the kernel's order. To a process that is stopped a
// second one means nothing: the SIGCONT that continues it takes every stop signal away (signal(7)), and nothing shows
// it.
func (s *signals) queueStops(p *process) error {
	if stopSignal(p.rec, s.stopped) != 0 {
		return nil
	}
	for _, info := range p.rec.Pending {
		if signalOf(info) == unix.SIGSTOP {
			if err := unix.Kill(p.pid, unix.SIGSTOP); err != nil {
				return fmt.Errorf("stop %s: %w", p.object(), err)
			}
		}
	}
	for i, th := range p.threads {
		for _, info := range p.rec.Threads[i].Pending {
			if signalOf(info) == unix.SIGSTOP {
				if err := unix.Tgkill(th.Pid, th.Tid, unix.SIGSTOP); err != nil {
					return fmt.Errorf("stop %s: %w", p.object(), err)
				}
			}
		}
	}
	return nil
}

// comesAgain reports that a pending signal is one that timers.set makes the kernel queue.
func comesAgain(rec *model.Process, info model.SigInfo) bool {
	for i := range rec.Timers {
		if t := &rec.Timers[i]; t.Expired != 0 && sigs.OfTimer([]model.SigInfo{info}, t.ID) {
			return true
		}
	}
	return false
}
