package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// ui is where a verb talks to the user. Results go to standard output; everything else, to standard error.
type ui struct {
	out  io.Writer
	err  io.Writer
	json bool // --json: exactly one object on standard output
	tty  bool // standard error is a terminal: someone watches
}

func newUI(out, err *os.File) *ui {
	return &ui{out: out, err: err, tty: term.IsTerminal(int(err.Fd()))}
}

// note prints a line on standard error.
func (u *ui) note(format string, args ...any) {
	fmt.Fprintf(u.err, "bpfckpt: %s\n", visible(strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " ")))
}

// say is note for things only a person at a terminal wants to read: success.
func (u *ui) say(format string, args ...any) {
	if u.tty && !u.json {
		u.note(format, args...)
	}
}

// object prints v as one line of JSON.
func (u *ui) object(v any) error {
	enc := json.NewEncoder(u.out)
	enc.SetEscapeHTML(false)
	return outputError(enc.Encode(v))
}

// print writes a result for people: lines and tabs, between which there may be names of others. Names that may
// themselves hold line ends are made visible by whoever puts them there.
func (u *ui) print(text string) error {
	var b strings.Builder
	for piece := range strings.SplitAfterSeq(text, "\n") {
		line, end := strings.CutSuffix(piece, "\n")
		for i, part := range strings.Split(line, "\t") {
			if i > 0 {
				b.WriteByte('\t')
			}
			b.WriteString(visible(part))
		}
		if end {
			b.WriteByte('\n')
		}
	}
	_, err := io.WriteString(u.out, b.String())
	return outputError(err)
}

func outputError(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Output, "standard output", "%w", err)
}

// table lays out rows in columns; the first row is the head. What is in them is made visible.
func table(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = visible(cell)
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	lines := strings.Split(b.String(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n")
}

// barDelay is how long work may take before a progress bar appears.
const barDelay = 300 * time.Millisecond

// bar returns a progress function for work counted in bytes, and a function that removes the bar. Without a terminal
// both do nothing.
func (u *ui) bar(what string) (progress func(done, total int64), finish func()) {
	if !u.tty || u.json {
		return nil, func() {}
	}
	start := time.Now()
	var bar *progressbar.ProgressBar
	progress = func(done, total int64) {
		if time.Since(start) < barDelay || total <= 0 {
			return
		}
		if bar == nil {
			bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(u.err),
				progressbar.OptionSetDescription(what),
				progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(30),
				progressbar.OptionThrottle(50*time.Millisecond),
				progressbar.OptionClearOnFinish(), progressbar.OptionUseIECUnits(true))
		}
		bar.ChangeMax64(total)
		_ = bar.Set64(min(done, total)) // a bar that cannot be drawn is no reason to stop
	}
	finish = func() {
		if bar != nil {
			_ = bar.Clear()
		}
	}
	return progress, finish
}

func itoa(n int) string { return strconv.Itoa(n) }

// bytesText prints a size in the unit that suits it, base 1024.
func bytesText[T int64 | uint64](n T) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1023.95 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// durationText prints a duration with three digits or so.
func durationText(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
