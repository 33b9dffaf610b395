package lazy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// outcome of an attempt to put pages into a process.
type verdict int

const (
	done    verdict = iota // they are there
	later                  // messages are to be read first
	nowhere                // no registered mapping is there
	gone                   // the address space is no more
)

// try calls do, which fills a prefix of size bytes at addr and says how much, until all is done. filled is told what is
// there now: what do has filled, and what was there before.
func (m *memory) try(addr, size uint64, do func(addr, off, size uint64) (uint64, error),
	filled func(off, size uint64),
) verdict {
	for off := uint64(0); off < size; {
		n, err := do(addr+off, off, size-off)
		if n > 0 {
			m.settled()
			filled(off, n)
			off += n
			continue
		}
		switch {
		case err == nil:
			return later // it cannot happen
		case errors.Is(err, unix.EEXIST):
			m.settled()
			filled(off, pageSize)
			off += pageSize
		case errors.Is(err, unix.ESRCH):
			return gone
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
			return later
		default: // ENOENT, or EINVAL of a mapping that cannot have it
			return m.split(addr+off, off, size-off, do, filled)
		}
	}
	return done
}

// split tries the halves of a range that does not lie in one registered mapping.
func (m *memory) split(addr, off, size uint64, do func(addr, off, size uint64) (uint64, error),
	filled func(off, size uint64),
) verdict {
	if size == pageSize {
		return nowhere
	}
	half := (size / 2) &^ (pageSize - 1)
	shift := func(by uint64) (func(uint64, uint64, uint64) (uint64, error), func(uint64, uint64)) {
		return func(a, o, n uint64) (uint64, error) { return do(a, o+by, n) }, func(o, n uint64) { filled(o+by, n) }
	}
	d, f := shift(off)
	first := m.try(addr, half, d, f)
	if first == gone || first == later {
		return first
	}
	d, f = shift(off + half)
	second := m.try(addr+half, size-half, d, f)
	return max(first, second)
}

// serve reads the messages of a memory and does what they ask for.
func (s *server) serve(m *memory) {
	if m.fd < 0 {
		return // removed
	}
	if m.parent != nil {
		s.settle(m)
		return
	}
	for range 64 { // others wait as well
		msg, ok, err := receive(m.fd)
		if err != nil {
			s.say("pid %d: %v", m.pid, err)
			return
		}
		if !ok {
			return
		}
		switch msg.event {
		case eventFault:
			if s.fault(m, msg.faultAt()&^(pageSize-1)) == gone {
				s.remove(m)
				return
			}
		case eventFork:
			s.memories = append(s.memories, m.fork(msg.childFD()))
			return // before anything else it is settled what the child has
		case eventRemap:
			from, to, size := msg.remap()
			m.remapped(from, to, size)
			for _, c := range s.memories {
				if c.parent == m {
					s.follow(c, from, to, size)
				}
			}
		case eventRemove:
			m.discarded(msg.removed())
		case eventUnmap:
			m.unmapped(msg.removed())
		}
	}
}

// follow learns of a move in the parent of a child that is not settled yet: it was before or after the fork. The child
// tells: a page can be put where it is.
func (s *server) follow(c *memory, from, to, size uint64) {
	for i := range c.content.pieces {
		for _, sp := range c.spans(i) {
			if sp.addr < from || sp.addr >= from+size {
				continue
			}
			sp.pages = 1
			switch s.bring(c, c.content.pieces[i].Frame, []span{sp}) {
			case done: // after
			case nowhere:
				c.remapped(from, to, size)
			default: // it is about to change that itself
				c.doomed = true
			}
			return
		}
	}
}

// settle finds out whether the parent of a forked child had operations under way that we were not told of: not if the
// kernel does something for us in the parent. Only then the child is served.
func (s *server) settle(m *memory) {
	p := m.parent
	if p.left == 0 {
		m.parent = nil
		return
	}
	for i := range p.content.pieces {
		for _, sp := range p.spans(i) {
			frame := p.content.pieces[i].Frame
			switch s.bring(p, frame, []span{{sp.addr, sp.page, sp.off, 1}}) {
			case done:
				m.parent = nil
			case gone:
				s.remove(p)
			case nowhere:
				continue
			}
			return
		}
	}
	m.parent = nil // nothing of the parent can be had any more
	m.doubt = true
}

// fault brings the page at addr.
func (s *server) fault(m *memory, addr uint64) verdict {
	frame, pending, absent := m.missing(addr)
	switch {
	case m.doomed, absent == 0 && !pending && m.doubt:
		return s.answerWith(m, addr, pageSize, poison)
	case !pending:
		return s.answerWith(m, addr, max(absent, 1)*pageSize, zero)
	}
	// The page itself first, its neighbours after it.
	a, _ := m.areaAt(addr)
	var all, one []span
	for _, i := range m.content.of(frame) {
		for _, sp := range m.spans(i) {
			if addr >= sp.addr && addr < sp.addr+uint64(sp.pages)*pageSize && addr < a.end {
				k := int((addr - sp.addr) / pageSize)
				one = []span{{addr, sp.page + k, sp.off + k, 1}}
			}
			all = append(all, sp)
		}
	}
	v := s.bring(m, frame, one)
	if v == gone {
		return gone
	}
	wake(m.fd, addr, pageSize) // if the page is not there, the fault comes again
	if v == done && s.bring(m, frame, all) == gone {
		return gone
	}
	return done
}

// answerWith fills a range without content, whose first page is waited for.
func (s *server) answerWith(m *memory, addr, size uint64, how func(fd int, addr, size uint64) (uint64, error)) verdict {
	do := func(addr, _, n uint64) (uint64, error) { return how(m.fd, addr, n) }
	v := m.try(addr, size, do, func(uint64, uint64) {})
	if v == gone {
		return gone
	}
	wake(m.fd, addr, size)
	return v
}

// bring puts spans of a frame into a memory, or poisons them if the frame is damaged.
func (s *server) bring(m *memory, frame uint32, list []span) verdict {
	if s.hot.data == nil || s.hot.frame != frame {
		data, err := s.frames.Read(frame)
		if err != nil {
			s.hot.data = nil
			return s.lose(m, list, err)
		}
		s.hot = hotFrame{frame, data}
	}
	return put(m, s.hot.data, list)
}

// put puts spans of a decoded frame into a memory.
func put(m *memory, data []byte, list []span) verdict {
	worst := done
	for _, sp := range list {
		size := uint64(sp.pages) * pageSize
		from := data[sp.off*pageSize:][:size]
		do := func(addr, off, n uint64) (uint64, error) { return CopyIn(m.fd, addr, from[off:off+n]) }
		v := m.try(sp.addr, size, do, func(off, n uint64) { m.mark(sp.page+int(off/pageSize), int(n/pageSize)) })
		worst = max(worst, v)
		if v == later || v == gone {
			return v
		}
	}
	return worst
}

// lose poisons spans whose content cannot be had.
func (s *server) lose(m *memory, list []span, cause error) verdict {
	worst, n := done, 0
	for _, sp := range list {
		do := func(addr, _, n uint64) (uint64, error) { return poison(m.fd, addr, n) }
		v := m.try(sp.addr, uint64(sp.pages)*pageSize, do, func(off, size uint64) {
			m.mark(sp.page+int(off/pageSize), int(size/pageSize))
			n += int(size / pageSize)
		})
		worst = max(worst, v)
		if v == later || v == gone {
			break
		}
	}
	if n > 0 {
		s.say("pid %d: %d pages are lost, and are a SIGBUS to touch: %v", m.pid, n, cause)
	}
	return worst
}

// filler decodes frames ahead of the loop.
type filler struct {
	ready  chan decoded
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// decoded is a frame for all memories.
type decoded struct {
	frame uint32
	data  []byte
	err   error
	free  chan<- struct{} // data is used no longer
	last  bool            // there is none left
}

// decoders is how many goroutines decode. The loop that copies takes a CPU as well.
const decoders = 2

// startFilling starts to decode all frames with missing pages.
func (s *server) startFilling() *filler {
	frames := map[uint32]bool{}
	var list []uint32
	for _, m := range s.memories {
		for _, f := range m.content.list {
			if !frames[f] {
				frames[f] = true
				list = append(list, f)
			}
		}
	}
	slices.Sort(list) // as they lie in the files
	ctx, cancel := context.WithCancel(context.Background())
	f := &filler{ready: make(chan decoded, decoders), cancel: cancel}
	jobs := make(chan uint32)
	f.wg.Go(func() {
		defer close(jobs)
		for _, frame := range list {
			select {
			case jobs <- frame:
			case <-ctx.Done():
				return
			}
		}
	})
	var workers sync.WaitGroup
	for range decoders {
		workers.Go(func() { s.decode(ctx, f, jobs) })
	}
	f.wg.Go(func() {
		workers.Wait()
		f.hand(ctx, s, decoded{last: true})
	})
	return f
}

func (s *server) decode(ctx context.Context, f *filler, jobs <-chan uint32) {
	r := s.img.Frames()
	defer r.Close()
	free := make(chan struct{}, 1)
	for frame := range jobs {
		data, err := r.Read(frame)
		if !f.hand(ctx, s, decoded{frame: frame, data: data, err: err, free: free}) {
			return
		}
		select {
		case <-free:
		case <-ctx.Done():
			return
		}
	}
}

// hand gives a frame to the loop.
func (f *filler) hand(ctx context.Context, s *server, d decoded) bool {
	select {
	case f.ready <- d:
		s.ring()
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *filler) stop() {
	f.cancel()
	f.wg.Wait()
}

// advance brings one frame more. It reports whether all is done.
func (s *server) advance() bool {
	if len(s.memories) == 0 {
		return true
	}
	if s.rest {
		return s.finish()
	}
	select {
	case d := <-s.fill.ready:
		if d.last {
			s.rest = true
			s.ring()
			return false
		}
		s.spread(d)
		d.free <- struct{}{}
		if len(s.fill.ready) > 0 {
			s.ring()
		}
	default:
	}
	return false
}

// spread puts a frame into every memory that misses pages of it. What cannot be had now is left to finish.
func (s *server) spread(d decoded) {
	for _, m := range slices.Clone(s.memories) {
		if m.parent != nil {
			continue
		}
		v := s.persist(m, d.frame, func(list []span) verdict {
			if d.err != nil {
				return s.lose(m, list, d.err)
			}
			return put(m, d.data, list)
		})
		if v == gone {
			s.remove(m)
		}
	}
}

// attempts is how often persist tries, about a millisecond in all.
const attempts = 20

// persist calls do with what a memory misses of a frame. While messages are to be read first it reads them and tries
// again: a program that discards memory all the time would else never get the rest.
func (s *server) persist(m *memory, frame uint32, do func([]span) verdict) verdict {
	for range attempts {
		var list []span
		for _, i := range m.content.of(frame) {
			list = append(list, m.spans(i)...)
		}
		if len(list) == 0 {
			return done
		}
		if v := do(list); v != later {
			return v
		}
		if !readable(m.fd) { // who sent the message that we have read has not run since
			time.Sleep(50 * time.Microsecond)
		}
		s.serve(m)
		if !slices.Contains(s.memories, m) {
			return done
		}
	}
	return later
}

// finish brings what was left, and reports whether every memory is complete.
func (s *server) finish() bool {
	for _, m := range slices.Clone(s.memories) {
		switch {
		case m.parent != nil || m.left == 0:
		case m.doomed || m.astray:
			if !m.alive() {
				s.remove(m)
			} else if s.stuck.CompareAndSwap(false, true) {
				close(s.never)
			}
		default:
			s.retry(m)
		}
	}
	return !slices.ContainsFunc(s.memories, func(m *memory) bool { return m.parent != nil || m.left > 0 })
}

// retry brings what is missing of one memory.
func (s *server) retry(m *memory) {
	before := m.left
	for _, frame := range m.content.list {
		switch s.persist(m, frame, func(list []span) verdict { return s.bring(m, frame, list) }) {
		case gone:
			s.remove(m)
			return
		case later:
			return
		}
	}
	if m.left < before {
		m.misses = 0
		return
	}
	if m.misses++; m.misses < patience {
		return
	}
	// There is no mapping where we believe one. It may be gone for a reason that we are not told (MADV_DONTFORK), or be
	// elsewhere. If we let go of the rest now, it would read as zeros there; so we stay, as long as the process does.
	s.say("pid %d: %d pages have no place any more", m.pid, m.left)
	m.astray, m.doubt = true, true
}

// alive tells whether the address space is still there.
func (m *memory) alive() bool {
	if _, in := m.areaAt(lowest); in {
		return true
	}
	_, err := zero(m.fd, lowest, pageSize)
	return !errors.Is(err, unix.ESRCH)
}

// lowest is the lowest address that can be asked about, vm.mmap_min_addr.
const lowest = 0x10000
