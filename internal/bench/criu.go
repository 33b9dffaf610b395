package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// This file runs criu beside us when it is installed. It is used by its command line alone (criu(8)); that it fails is
// a finding.

// findCriu returns the path of criu, "" if it is not there or says itself that it does not work on this kernel.
func (p *Plan) findCriu(ctx context.Context) string {
	path, err := exec.LookPath("criu")
	if err != nil {
		return ""
	}
	if err := runCriu(ctx, path, "check"); err != nil {
		p.Notes = append(p.Notes, fmt.Sprintf("left out: %v", err))
		return ""
	}
	return path
}

func runCriu(ctx context.Context, criu string, args ...string) error {
	cmd := exec.CommandContext(ctx, criu, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		text := bytes.TrimSpace(out.Bytes())
		return fmt.Errorf("criu %s: %w: %s", args[0], err, text[bytes.LastIndexByte(text, '\n')+1:])
	}
	return nil
}

func criuSnap(ctx context.Context, r *Recorder, criu string, st *stage, kase string, pid int) error {
	dir := filepath.Join(st.dir, "criu")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	start := time.Now()
	if err := runCriu(ctx, criu, "dump", "--tree", strconv.Itoa(pid), "--images-dir", dir,
		"--leave-running"); err != nil {
		return err
	}
	r.Time(kase, wallMetric, time.Since(start))
	frozen, err := criuFrozen(filepath.Join(dir, "stats-dump"))
	if err != nil {
		return err
	}
	r.Time(kase, freezeMetric, frozen)
	n, err := treeSize(dir)
	r.Record(kase, writtenMetric, float64(n))
	return err
}

// criuRestorer brings back what it saved in its first round.
type criuRestorer struct {
	criu  string
	st    *stage
	load  workload
	saved int // pid of the image, 0 before there is one
}

func (c *criuRestorer) run(ctx context.Context, r *Recorder) error {
	dir := filepath.Join(c.st.dir, "criu-"+c.load.key)
	if c.saved == 0 {
		if err := c.save(ctx, dir); err != nil {
			return err
		}
	}
	start := time.Now()
	if err := runCriu(ctx, c.criu, "restore", "--images-dir", dir, "--restore-detached"); err != nil {
		return err
	}
	r.Time(c.load.key, restoreMetric, time.Since(start))
	err := subject.Check(ctx, c.saved)
	return errors.Join(err, killStranger(c.saved))
}

func (c *criuRestorer) save(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p, err := subject.Start(ctx, c.st.program, c.load.args(c.st.dir))
	if err != nil {
		return err
	}
	defer p.Kill()
	if err := runCriu(ctx, c.criu, "dump", "--tree", strconv.Itoa(p.Pid), "--images-dir", dir); err != nil {
		return err
	}
	c.saved = p.Pid
	return nil
}

// reapTimeout is how long pid 1 may take to reap an orphan.
const reapTimeout = 20 * time.Second

// killStranger kills a process that is not our child and waits until its pid is free.
func killStranger(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill pid %d: %w", pid, err)
	}
	for end := time.Now().Add(reapTimeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			return nil
		}
	}
	return fmt.Errorf("%w: pid %d stays a zombie", subject.ErrSubject, pid)
}

func treeSize(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// criuFrozen reads how long the process stood still from the statistics criu leaves beside its images: two magic words,
// a length, and a protocol buffer whose field 1 is a message with the times in microseconds; field 2 of that is the
// frozen time (criu.org, Statistics).
func criuFrozen(path string) (time.Duration, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	const head = 12
	if len(b) < head {
		return 0, fmt.Errorf("%s: too short", path)
	}
	dump, _, ok := protoField(b[head:], 1)
	if !ok {
		return 0, fmt.Errorf("%s: no dump statistics", path)
	}
	_, us, ok := protoField(dump, 2)
	if !ok {
		return 0, fmt.Errorf("%s: no frozen time", path)
	}
	return time.Duration(us) * time.Microsecond, nil
}

// protoField finds a field of a protocol buffer message: its bytes if it is length-delimited (wire type 2), its value
// if it is a varint (wire type 0).
func protoField(msg []byte, number uint64) (data []byte, value uint64, ok bool) {
	for len(msg) > 0 {
		key, n := binary.Uvarint(msg)
		if n <= 0 {
			return nil, 0, false
		}
		msg = msg[n:]
		v, n := binary.Uvarint(msg)
		if n <= 0 {
			return nil, 0, false
		}
		msg = msg[n:]
		switch key & 7 {
		case 0:
			data = nil
		case 2:
			if v > uint64(len(msg)) {
				return nil, 0, false
			}
			data, msg = msg[:v], msg[v:]
		default:
			return nil, 0, false
		}
		if key>>3 == number {
			return data, v, true
		}
	}
	return nil, 0, false
}
