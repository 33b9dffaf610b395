package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/tracer"
)

// plainWatch prints lines: the state when it begins, every event, how it ended.
type plainWatch struct {
	wt    *watching
	begun bool
	last  agent.Status
}

func (p *plainWatch) stats(s agent.Status) error {
	p.last = s
	if p.begun {
		return nil
	}
	p.begun = true
	t := &s.Stats
	return p.wt.print(fmt.Sprintf("%d %s: %d processes, %d threads, %d mappings, %d descriptors; calls seen by %s, dlopen in %d libraries\n",
		s.Pid, visible(s.Comm), t.Groups, t.Threads, t.Maps, t.FDs, t.Method, t.DL))
}

func (p *plainWatch) event(e tracer.Event) error { return p.wt.print(visible(e.String()) + "\n") }

func (p *plainWatch) saved(o agent.Outcome) error {
	return p.wt.print(strings.Join(outcomeLines(o), "\n") + "\n")
}

func (p *plainWatch) end(e watchEnd) error {
	t := &e.Stats
	return p.wt.print(fmt.Sprintf("%d %s: %s; %d events, %d lost, %d not shown\n", p.last.Pid, visible(p.last.Comm),
		e.text, t.Events, t.Lost, p.wt.skipped))
}

// jsonWatch prints one object a line: "state" when it begins, the events, "stats" now and then, "snapshot" or
// "snapshot_failed" for periodic snapshots, "end".
type jsonWatch struct {
	wt    *watching
	begun bool
	said  time.Time
}

// jsonStatsEvery is how often figures are printed between the events.
const jsonStatsEvery = 5 * time.Second

func (j *jsonWatch) stats(s agent.Status) error {
	kind := "state"
	if j.begun {
		if time.Since(j.said) < jsonStatsEvery {
			return nil
		}
		kind = "stats"
	}
	j.begun, j.said = true, time.Now()
	return j.wt.object(struct {
		Event string `json:"event"`
		agent.Status
	}{kind, s})
}

func (j *jsonWatch) event(e tracer.Event) error { return j.wt.object(e) }

func (j *jsonWatch) saved(o agent.Outcome) error { return j.wt.object(outcomeJSON(o)) }

func (j *jsonWatch) end(e watchEnd) error {
	end := map[string]any{
		"event": "end", "pid": j.wt.pid, "ended": e.Ended, "not_shown": j.wt.skipped,
		"table": e.Stats,
	}
	if e.Known {
		end["status"] = e.code
	}
	if e.signal != "" {
		end["signal"] = e.signal
	}
	return j.wt.object(end)
}

// quietWatch is the output of a watch in the background.
type quietWatch struct {
	wt    *watching
	begun bool
}

func (q *quietWatch) stats(agent.Status) error {
	if q.begun {
		return nil
	}
	q.begun = true
	return outputError(agent.Ready(q.wt.out))
}

func (q *quietWatch) event(tracer.Event) error { return nil }

func (q *quietWatch) saved(agent.Outcome) error { return nil } // `watch --list` tells

func (q *quietWatch) end(watchEnd) error { return nil }

// isTerminal reports whether the view of a person is wanted.
func (wt *watching) isTerminal() bool {
	f, ok := wt.out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// Control sequences (console_codes(4)).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // alternate screen, cursor off
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K"
	clearRest   = "\x1b[J"
	bold        = "\x1b[1m"
	plain       = "\x1b[0m"
)

// screen is the live view on a terminal: figures at the top, the newest events below.
type screen struct {
	wt      *watching
	tty     *os.File
	resized chan os.Signal
	recent  []fmt.Stringer // newest last; most of them are never seen, and so never written out
	now     agent.Status
	before  agent.Status
	rates   rates
}

type textLine string

func (l textLine) String() string { return string(l) }

// rates are changes per second.
type rates struct{ events, rss, faults float64 }

// keepEvents is how many events are kept for the view; a terminal shows fewer.
const keepEvents = 300

func newScreen(wt *watching) (*screen, error) {
	s := &screen{wt: wt, tty: wt.out.(*os.File), resized: make(chan os.Signal, 1)}
	signal.Notify(s.resized, unix.SIGWINCH)
	_, err := io.WriteString(s.tty, enterScreen)
	return s, outputError(err)
}

func (s *screen) event(e tracer.Event) error {
	s.recent = append(s.recent, &e)
	if len(s.recent) > 2*keepEvents {
		s.recent = append(s.recent[:0], s.recent[len(s.recent)-keepEvents:]...)
	}
	return nil
}

func (s *screen) saved(o agent.Outcome) error {
	for _, l := range outcomeLines(o) {
		s.recent = append(s.recent, textLine(l))
	}
	return nil
}

func (s *screen) stats(st agent.Status) error {
	s.before, s.now = s.now, st
	if dt := float64(s.now.SinceUS-s.before.SinceUS) / 1e6; dt > 0 && s.before.Pid != 0 {
		s.rates = rates{
			events: float64(s.now.Stats.Events-s.before.Stats.Events) / dt,
			rss:    float64(s.now.RSSBytes-s.before.RSSBytes) / dt,
			faults: float64(s.now.Faults-s.before.Faults) / dt,
		}
	}
	return s.draw()
}

func (s *screen) draw() error {
	width, height, err := term.GetSize(int(s.tty.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	_, err = s.tty.Write(s.page(width, height))
	return outputError(err)
}

// page is what the terminal shows: nothing that would scroll it.
func (s *screen) page(width, height int) []byte {
	lines := s.head()
	room := max(height-len(lines), 0)
	for _, r := range s.recent[max(len(s.recent)-room, 0):] {
		lines = append(lines, r.String())
	}
	var b bytes.Buffer
	b.WriteString(home)
	for i, line := range lines[:min(len(lines), height)] {
		if line = cut(line, width); i == 0 {
			b.WriteString(clearLine + bold + line + plain)
		} else {
			b.WriteString("\r\n" + clearLine + line) // behind a full line it would clear the last character
		}
	}
	if len(lines) < height {
		b.WriteString("\r\n" + clearRest)
	}
	return b.Bytes()
}

// head is the state at a glance. It fits into 80 columns.
func (s *screen) head() []string {
	t := &s.now.Stats
	since := time.Duration(s.now.SinceUS) * time.Microsecond
	lines := []string{
		fmt.Sprintf("bpfckpt watch: pid %d %s, for %s", s.now.Pid, visible(s.now.Comm), since.Round(time.Second)),
		fmt.Sprintf("processes %-5d threads %-5d maps %-6d fds %-6d handlers %-4d libraries %d", t.Groups, t.Threads,
			t.Maps, t.FDs, t.Handlers, t.DL),
		fmt.Sprintf("events %-9d %7.0f/s  lost %-7d reread %-5d drift %-4d by %s", t.Events, s.rates.events, t.Lost,
			t.Repairs, t.Drift, t.Method),
		fmt.Sprintf("memory %-10s %+9s/s   touched %s/s", bytesText(s.now.RSSBytes), signedBytes(s.rates.rss),
			bytesText(int64(s.rates.faults)*int64(os.Getpagesize()))),
	}
	if s.now.Saves != nil {
		lines = append(lines, savesText(s.now.Saves))
	}
	return append(lines, "")
}

func signedBytes(f float64) string {
	if f < 0 {
		return "-" + bytesText(int64(-f))
	}
	return bytesText(int64(f))
}

// cut shortens a line to the width of the terminal. Events hold paths, which may hold anything: what would move the
// cursor is replaced.
func cut(line string, width int) string {
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, line)
	runes := []rune(line)
	if len(runes) > width {
		return string(runes[:max(width-1, 0)]) + "…"
	}
	return line
}

func (s *screen) end(e watchEnd) error {
	signal.Stop(s.resized)
	_, err := io.WriteString(s.tty, leaveScreen)
	t := &e.Stats
	s.wt.note("pid %d %s: %s; %d events, %d lost", s.now.Pid, visible(s.now.Comm), e.text, t.Events, t.Lost)
	return outputError(err)
}
