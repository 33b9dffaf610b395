// Package carry keeps the resource usage of a process's earlier lives while it runs: restore puts it here under the
// process's new identity (package procid), snapshot takes it from here into the next image, so that a job's total
// survives any number of restores.
//
// The records live in /run/bpfckpt, one JSON file of mode 0600 for each process, named by its identity. They are a
// convenience: a record that is lost makes a total too small, and the next image begins a row of its own. A file is
// written beside its name and renamed, so a reader never sees half of one. Earlier versions named the files
// PID-STARTTIME.json; those are still read, and swept.
package carry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/internal/view"
	"github.com/bpfckpt/bpfckpt/model"
)

// Dir is where the records of this machine are.
const Dir = "/run/bpfckpt"

// maxRecord bounds what is read of one record, bytes. One has about 250.
const maxRecord = 4096

// Store is a directory of records.
type Store struct {
	Dir  string
	View *view.View // in which their processes are looked for
}

// Record is what is kept of a process.
type Record struct {
	model.Usage        // of its earlier lives
	Image       string `json:"image,omitempty"` // id of the image it was restored from: the next one continues it
	// The boot id that goes with the identity, since the directory may outlive a run of the kernel; "" is that of now.
	Boot string `json:"boot,omitempty"`
}

// Put records in Dir where a process came from and what it used in its earlier lives.
func Put(v *view.View, id procid.ID, r Record) error { return Store{Dir, v}.Put(id, r) }

// Get returns from Dir what was recorded for this very process, and whether there is a record.
func Get(v *view.View, id procid.ID) (Record, bool, error) { return Store{Dir, v}.Get(id) }

// Sweep removes from Dir the records of processes that have ended.
func Sweep(v *view.View) { Store{Dir, v}.Sweep() }

const suffix = ".json"

func (s Store) path(id procid.ID) string { return filepath.Join(s.Dir, id.String()+suffix) }

// oldPath is what a record of a process of our own pid namespace was called before.
func (s Store) oldPath(id procid.ID) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%d-%d%s", id.Pid, id.Start, suffix))
}

// Put records where a process came from and what it used in its earlier lives.
func (s Store) Put(id procid.ID, r Record) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of usage records: %w", err)
	}
	var err error
	if r.Boot, err = s.View.Boot(); err != nil {
		return fmt.Errorf("record the usage: %w", err)
	}
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
	if err := os.Rename(f.Name(), s.path(id)); err != nil {
		return fmt.Errorf("name a usage record: %w", err)
	}
	return nil
}

// Get returns what was recorded for this very process, and whether there is a record.
func (s Store) Get(id procid.ID) (Record, bool, error) {
	boot, err := s.View.Boot()
	if err != nil {
		return Record{}, false, fmt.Errorf("look for a usage record: %w", err)
	}
	var paths []string
	for _, near := range id.Near() {
		paths = append(paths, s.path(near))
	}
	for _, path := range append(paths, s.oldPath(id)) {
		r, ok, err := read(path)
		if err != nil || ok && (r.Boot == "" || r.Boot == boot) {
			return r, ok, err
		}
	}
	return Record{}, false, nil
}

// read reads a record, if it is there and ours to read: to us one that another user made is lost.
func read(path string) (r Record, ok bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("open a usage record: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return r, false, fmt.Errorf("read a usage record: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, false, fmt.Errorf("decode the usage record %s: %w", path, err)
	}
	return r, true, nil
}

// Sweep removes the records of processes that have ended, and only those: what it cannot judge, since it sees nothing
// of the pid namespace, stays.
func (s Store) Sweep() {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return
	}
	boot, err := s.View.Boot()
	if err != nil {
		return
	}
	census := s.View.Census()
	for _, e := range entries {
		path := filepath.Join(s.Dir, e.Name())
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		id, ok := procid.Parse(name)
		if !ok {
			id, ok = oldName(name)
		}
		if !ok {
			continue
		}
		if _, state := census.Find(id); state == view.Ended || otherBoot(path, boot) {
			_ = os.Remove(path) // next time then
		}
	}
}

// otherBoot tells whether a record is of an earlier run of the kernel, of which no process lives.
func otherBoot(path, boot string) bool {
	r, ok, err := read(path)
	return err == nil && ok && r.Boot != "" && r.Boot != boot
}

// oldName reads PID-STARTTIME. Which pid namespace was meant is not known; it counts as the first, from which all are
// seen, so that nobody else removes what he cannot judge.
func oldName(name string) (id procid.ID, ok bool) {
	pid, start, ok := strings.Cut(name, "-")
	id.NS = procid.Initial
	var err1, err2 error
	id.Pid, err1 = strconv.Atoi(pid)
	id.Start, err2 = strconv.ParseUint(start, 10, 64)
	return id, ok && err1 == nil && err2 == nil
}
