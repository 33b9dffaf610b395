package lazy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
)

// server fills memories. Everything of it belongs to the goroutine of loop.
type server struct {
	img    *image.Reader
	report io.Writer // what people should know
	peer   int       // pid of the process that does the restore

	memories []*memory
	frames   *image.FrameReader // for faults
	hot      hotFrame

	self, guard, guardFD int // pidfd of this process; pid and pidfd of the guard
	victims              []int32
	huge                 []hugeMemory

	requests  chan incoming // from the restore
	wakeup    int           // an eventfd: there is something in requests or in fill
	running   bool          // the processes run
	fill      *filler
	rest      bool          // fill is through
	answering sync.Mutex    // held from a request to its answer
	finished  chan struct{} // closed when all memory is there, or its processes are gone
	never     chan struct{} // closed when some never will be
	stuck     atomic.Bool   // never is closed
	control   *control.Server
}

// hotFrame is the frame that the last fault was about: neighbours follow.
type hotFrame struct {
	frame uint32
	data  []byte
}

type incoming struct {
	request
	gone  bool // the restore has ended
	reply chan answer
}

// Serve is the server: args are the image and the pid of the process that does the restore, whose requests come in over
// conn. It returns when all memory is there, or the restore was given up.
func Serve(ref string, peer int, conn *os.File, report io.Writer) error {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGPIPE) // a process depends on us
	s := &server{
		report: report, peer: peer, guard: -1, guardFD: -1,
		requests: make(chan incoming, 1), finished: make(chan struct{}), never: make(chan struct{}),
	}
	var err error
	if s.img, err = image.Open(ref); err != nil {
		_ = json.NewEncoder(conn).Encode(failed(err))
		return nil // it is told by those who asked
	}
	defer s.img.Close()
	_ = os.Chdir("/") // so that no file system is kept busy; the image's files are open
	s.frames = s.img.Frames()
	defer s.frames.Close()
	if s.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("make an eventfd: %w", err)
	}
	if s.self, err = unix.PidfdOpen(os.Getpid(), 0); err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	go s.listen(conn)
	err = s.loop()
	if err == nil && s.running {
		s.collapse()
	}
	s.answering.Lock() // the last answer is on its way
	close(s.finished)
	if s.control != nil {
		_ = s.control.Close()
	}
	return err
}

// open makes the socket on which snapshots ask.
func (s *server) open() {
	c, err := control.ListenLazy()
	if err != nil {
		s.say("%v", err) // a snapshot will be refused, no more
		return
	}
	s.control = c
	go func() { _ = c.Serve(s.await) }() // it ends with Close
}

// await answers who wants to know when all memory is there. That we have gone says the same.
func (s *server) await(ctx context.Context, req control.Request, _ func(done, total int64)) (any, error) {
	if req.Op != control.OpFinish {
		return nil, fault.New(fault.ControlSocket, "request", "unknown operation %q", req.Op)
	}
	select {
	case <-s.finished:
		return struct{}{}, nil
	case <-s.never:
		return nil, fault.New(fault.ControlSocket, "restore --lazy", "some memory of a process will never be there")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// listen hands requests to the loop, one after the other.
func (s *server) listen(conn *os.File) {
	out := json.NewEncoder(conn)
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			s.ask(incoming{gone: true})
			return
		}
		var r incoming
		if err := json.Unmarshal(line, &r.request); err != nil {
			r = incoming{gone: true}
		}
		s.answering.Lock()
		_ = out.Encode(s.ask(r)) // who has gone is found when reading
		s.answering.Unlock()
	}
}

// ask gives the loop a request and waits for the answer.
func (s *server) ask(r incoming) answer {
	r.reply = make(chan answer, 1)
	s.requests <- r
	s.ring()
	return <-r.reply
}

// ring wakes the loop.
func (s *server) ring() {
	_, _ = unix.Write(s.wakeup, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // full is as good
}

// errGivenUp ends the loop when the restore has failed.
var errGivenUp = errors.New("the restore was given up")

// loop is the life of the server.
func (s *server) loop() error {
	defer s.endGuard()
	for {
		if err := s.wait(); err != nil {
			return err
		}
		for _, m := range slices.Clone(s.memories) {
			s.serve(m)
		}
		if s.guardFD >= 0 && readable(s.guardFD) {
			s.renewGuard()
		}
		select {
		case r := <-s.requests:
			a, err := s.answer(r)
			r.reply <- a
			if errors.Is(err, errGivenUp) {
				s.closeAll()
				return nil
			}
		default:
		}
		if s.running && s.advance() {
			s.closeAll()
			return nil
		}
	}
}

// wait waits until there is something to do, at most some milliseconds if that may be something the kernel does not
// tell of.
func (s *server) wait() error {
	fds := []unix.PollFd{{Fd: int32(s.wakeup), Events: unix.POLLIN}}
	if s.guardFD >= 0 {
		fds = append(fds, unix.PollFd{Fd: int32(s.guardFD), Events: unix.POLLIN})
	}
	timeout := -1
	if s.rest {
		timeout = pause
	}
	for _, m := range s.memories {
		if m.parent != nil {
			timeout = 0
			continue
		}
		fds = append(fds, unix.PollFd{Fd: int32(m.fd), Events: unix.POLLIN})
	}
	_, err := unix.Poll(fds, timeout)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	if fds[0].Revents != 0 {
		var b [8]byte
		_, _ = unix.Read(s.wakeup, b[:])
	}
	return nil
}

func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// answer does what the restore asks for.
func (s *server) answer(r incoming) (answer, error) {
	switch {
	case r.Process != nil:
		if err := s.adopt(r.Process); err != nil {
			return failed(err), nil
		}
		return answer{}, nil
	case r.Run != "":
		if id := s.img.Info().ID; id != r.Run {
			return failed(fmt.Errorf("it serves image %s, not %s: another one has been made meanwhile", id, r.Run)), nil
		}
		n := 0
		for _, m := range s.memories {
			n += m.left
		}
		s.running = true
		s.open()
		debug.SetGCPercent(50)
		s.fill = s.startFilling()
		return answer{Pages: n}, nil
	case r.gone && s.running:
		return answer{}, nil
	}
	return answer{}, errGivenUp
}

// adopt takes a process over.
func (s *server) adopt(p *Process) error {
	fd, err := ptrace.TakeFD(s.peer, p.FD)
	if err != nil {
		return err
	}
	// Without FD_CLOEXEC: the orphanage must find it.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("F_SETFD: %w", err)
	}
	m := newMemory(fd, p.Pid, s.contentOf(p), p.Areas)
	if m.pidfd, err = unix.PidfdOpen(p.Pid, 0); err == nil {
		_, err = unix.FcntlInt(uintptr(m.pidfd), unix.F_SETFD, 0)
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("pidfd_open: %w", err)
	}
	s.victims = append(s.victims, int32(m.pidfd))
	s.huge = append(s.huge, hugeMemory{m.pidfd, p.Huge})
	s.memories = append(s.memories, m)
	return s.renewGuard()
}

// contentOf returns what is to come into a process.
func (s *server) contentOf(p *Process) *content {
	areas := slices.Clone(p.Areas)
	for _, r := range p.There {
		areas = without(areas, r)
	}
	return newContent(s.img.PiecesIn(p.Space, areas))
}

// renewGuard puts a new guard in the place of the old one, if any: the new one knows all processes.
func (s *server) renewGuard() error {
	plan, err := s.planGuard()
	if err != nil {
		return err
	}
	old, oldFD := s.guard, s.guardFD
	pid, err := startGuard(plan)
	if err != nil {
		return err
	}
	s.guard = pid
	if s.guardFD, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	endGuard(old, oldFD)
	return nil
}

func (s *server) endGuard() { endGuard(s.guard, s.guardFD) }

// endGuard ends a guard and waits for its end.
func endGuard(pid, pidfd int) {
	if pid < 0 {
		return
	}
	_ = unix.Kill(pid, unix.SIGKILL) // a child that was not waited for keeps its pid
	_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
	_ = unix.Close(pidfd)
}

// planGuard prepares a guard. The orphanage gets the processes as arguments, PID:PIDFD:FD.
func (s *server) planGuard() (*guardPlan, error) {
	argv := []string{"bpfckpt", OrphanageVerb}
	for _, m := range s.memories {
		if m.pid != 0 {
			argv = append(argv, fmt.Sprintf("%d:%d:%d", m.pid, m.pidfd, m.fd))
		}
	}
	p := &guardPlan{watch: pollFD{fd: int32(s.self), events: unix.POLLIN}, victims: slices.Clone(s.victims)}
	var err error
	if p.argv, err = strings0(argv); err != nil {
		return nil, err
	}
	if p.envp, err = strings0(os.Environ()); err != nil {
		return nil, err
	}
	if p.path, err = unix.BytePtrFromString("/proc/self/exe"); err != nil {
		return nil, err
	}
	p.name, err = unix.BytePtrFromString("lazy-guard")
	return p, err
}

// closeAll lets go of the processes: the kernel unregisters their mappings and wakes whoever waits.
func (s *server) closeAll() {
	for _, m := range s.memories {
		_ = unix.Close(m.fd)
	}
	s.memories = nil
	if s.fill != nil {
		s.fill.stop()
	}
}

// remove forgets an address space that is no more.
func (s *server) remove(m *memory) {
	_ = unix.Close(m.fd)
	m.fd, m.left = -1, 0 // the number will be another's
	s.memories = slices.DeleteFunc(s.memories, func(o *memory) bool { return o == m })
	for _, o := range s.memories {
		if o.parent == m {
			o.parent = nil
		}
	}
}

func (s *server) say(format string, args ...any) {
	fmt.Fprintf(s.report, "bpfckpt: "+format+"\n", args...)
}

// pause is how long the loop waits between two attempts to bring what the kernel refused, milliseconds; patience after
// how many of them the mapping is taken to be gone.
const (
	pause    = 5
	patience = 200
)
