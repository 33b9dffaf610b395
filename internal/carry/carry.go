// Package carry keeps the resource usage of a process's earlier lives while it runs: restore puts it here under the process's new
// pid and start time, snapshot takes it from here into the next image, so that a job's total survives any number of restores.
//
// The records live in /run/bpfckpt, one JSON file of mode 0600 for each process, named PID-STARTTIME.json. They are a convenience:
// a record that is lost makes a total too small and nothing else. A file is written beside its name and renamed, so a reader never
// sees half of one.
package carry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// Dir is where the records of this machine are.
const Dir = "/run/bpfckpt"

// maxRecord bounds what Get reads of one record, bytes. One has about 200.
const maxRecord = 4096

// Store is a directory of records.
type Store struct{ Dir string }

// Record is what is kept of a process.
type Record struct {
	image.Usage        // of its earlier lives
	Image       string `json:"image,omitempty"` // id of the image it was restored from: the next one continues it
}

// PutRecord records in Dir where a process came from. start is field 22 of /proc/PID/stat, in clock ticks since boot.
func PutRecord(pid int, start uint64, r Record) error { return Store{Dir}.PutRecord(pid, start, r) }

// GetRecord returns from Dir what was recorded for this very process, and whether there is a record.
func GetRecord(pid int, start uint64) (Record, bool, error) { return Store{Dir}.GetRecord(pid, start) }

// Put records in Dir what the process used in its earlier lives. start is field 22 of /proc/PID/stat, in clock ticks since boot.
func Put(pid int, start uint64, u image.Usage) error { return Store{Dir}.Put(pid, start, u) }

// Get returns from Dir what Put recorded for this very process, and whether there is a record.
func Get(pid int, start uint64) (image.Usage, bool, error) { return Store{Dir}.Get(pid, start) }

func (s Store) path(pid int, start uint64) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%d-%d.json", pid, start))
}

// Put records what the process used in its earlier lives, and removes the records of processes that have ended.
func (s Store) Put(pid int, start uint64, u image.Usage) error {
	return s.PutRecord(pid, start, Record{Usage: u})
}

// PutRecord is Put with the image the process was restored from.
func (s Store) PutRecord(pid int, start uint64, r Record) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of usage records: %w", err)
	}
	s.sweep()
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a usage record: %w", err)
	}
	f, err := os.CreateTemp(s.Dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("create a usage record: %w", err)
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write a usage record: %w", err)
	}
	if err := os.Rename(f.Name(), s.path(pid, start)); err != nil {
		return fmt.Errorf("name a usage record: %w", err)
	}
	return nil
}

// Get returns what Put recorded for this very process, and whether there is a record.
func (s Store) Get(pid int, start uint64) (image.Usage, bool, error) {
	r, ok, err := s.GetRecord(pid, start)
	return r.Usage, ok, err
}

// GetRecord is Get with the image the process was restored from.
func (s Store) GetRecord(pid int, start uint64) (Record, bool, error) {
	var u Record
	f, err := os.Open(s.path(pid, start))
	// What we may not read was recorded by another user: to us it is lost.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return u, false, nil
	}
	if err != nil {
		return u, false, fmt.Errorf("open a usage record: %w", err)
	}
	defer f.Close()
	b := make([]byte, maxRecord)
	n, err := f.Read(b)
	if err != nil {
		return u, false, fmt.Errorf("read a usage record: %w", err)
	}
	if err := json.Unmarshal(b[:n], &u); err != nil {
		return u, false, fmt.Errorf("decode the usage record %s: %w", f.Name(), err)
	}
	return u, true, nil
}

// sweep removes the records of processes that have ended, and only those: what it cannot judge stays.
func (s Store) sweep() {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		p, st, ok := strings.Cut(name, "-")
		pid, err1 := strconv.Atoi(p)
		start, err2 := strconv.ParseUint(st, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			continue
		}
		now, err := procfs.Pid(pid).Stat()
		if errors.Is(err, &fault.Error{Code: fault.TargetGone}) || err == nil && now.StartTime != start {
			_ = os.Remove(filepath.Join(s.Dir, e.Name())) // next time then
		}
	}
}
