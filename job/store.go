package job

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/cmdline"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// runNote is what run keeps beside the images of a store, in run.json: of which command line an image is, and whether
// the command has ended since. Without it an image counts as one to go on from, and the command line is that of its
// root process.
type runNote struct {
	Args     []string `json:"args"`
	Image    string   `json:"image"`    // the id the note is about; it says nothing of another head
	Finished bool     `json:"finished"` // the command ended by itself after this image

	Streams streams `json:"streams"` // what the command was started with, or goes on with
}

const noteFile = "run.json"

// maxNote bounds what is read of a note, bytes; a command line has at most 2 MiB, and JSON may write six bytes for one.
const maxNote = 16 << 20

// readNote returns the note of a store, and whether there is one.
func readNote(dir string) (n runNote, ok bool, err error) {
	path := filepath.Join(dir, noteFile)
	top, err := beneath.Open(dir, beneath.OfOurs)
	var text []byte
	if err == nil {
		text, err = top.Read(noteFile, maxNote+1)
		_ = top.Close()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if len(text) > maxNote {
		err = errors.New("it is not a note of run")
	}
	if err == nil {
		err = json.Unmarshal(text, &n)
	}
	if errors.Is(err, &fault.Error{Code: fault.StoreForeign}) {
		return n, false, err
	}
	if err != nil {
		return n, false, fault.New(fault.RunStore, path, "read the note: %w", err).
			WithRemedy("remove the file, or give another --dir; `bpfckpt restore %s` goes on with the image", dir)
	}
	return n, true, nil
}

// writeNote replaces the note of a store; after a crash it is the old one or the new one.
func writeNote(dir string, n runNote) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode the note: %w", err)
	}
	top, err := beneath.Open(dir, beneath.OfOurs)
	if err == nil {
		err = top.Replace(noteFile, append(text, '\n'))
		_ = top.Close()
	}
	if err != nil {
		return fmt.Errorf("write the note: %w", err)
	}
	return nil
}

// tryStore begins an image and gives it up: a directory that takes none is told of before the command starts, not at
// its end.
func tryStore(dir string) error {
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		return err
	}
	w.Abort()
	return nil
}

// resumePoint opens the image to go on from: the head of the store, unless the command has ended since. It returns nil
// if there is none, and a fault if the image is of another command or damaged. The streams are those that the command
// had.
func resumePoint(dir string, args []string) (*image.Reader, streams, error) {
	r, err := image.Open(dir)
	if errors.Is(err, &fault.Error{Code: fault.StoreNotFound}) {
		return nil, streams{}, nil
	}
	if err != nil {
		return nil, streams{}, err
	}
	note, ok, err := readNote(dir)
	if err != nil {
		r.Close()
		return nil, streams{}, err
	}
	about := ok && note.Image == r.Info().ID
	if about && note.Finished {
		r.Close()
		return nil, streams{}, nil
	}
	was, same := rootArgs(r.State()), false
	if about {
		was, same = note.Args, slices.Equal(note.Args, args)
	} else {
		same = endsWith(was, args)
	}
	if !same {
		r.Close()
		return nil, streams{}, fault.New(fault.OtherCommand, dir, "its image is of `%s`", cmdline.Text(was)).
			WithRemedy("give another --dir; `bpfckpt restore %s` goes on with the image's own command", cmdline.Quote(dir))
	}
	return r, note.Streams, nil
}

// rootArgs is the command line of the root process of an image.
func rootArgs(st *model.State) []string {
	for i := range st.Processes {
		if st.Processes[i].Pid == st.Root {
			return st.Processes[i].Args
		}
	}
	return nil
}

// endsWith reports whether was is args, perhaps after the interpreter that the kernel puts before a script (execve(2)).
func endsWith(was, args []string) bool {
	return len(was) >= len(args) && len(was) <= len(args)+2 && slices.Equal(was[len(was)-len(args):], args)
}

// runLock makes sure that one run at a time works in a directory, from whichever namespaces it is seen. It has two
// parts, both of which the kernel drops however the holder ends: a lock on the directory (flock(2)), and, since there
// may be no directory yet, an abstract socket name (unix(7)) that says where it will be.
type runLock struct {
	place net.Listener
	dir   *os.File // nil while there is no directory
}

// lockRun takes the lock of a directory, which need not be there.
func lockRun(dir string) (*runLock, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.New(fault.RunStore, dir, "find the directory: %w", err)
	}
	place := fmt.Sprintf("@bpfckpt-run-%d-%x", os.Getuid(), sha256.Sum256([]byte(whereIs(abs))))
	l := &runLock{}
	l.place, err = net.Listen("unix", place)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, inUse(dir)
	case err != nil:
		return nil, fault.New(fault.RunStore, dir, "lock it: %s", strings.TrimPrefix(err.Error(), "listen unix "))
	}
	if err := l.hold(dir); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// whereIs names the place of a path that may not be there: by the nearest directory that is, since paths are different
// directories in different mount namespaces.
func whereIs(abs string) string {
	rest := ""
	for {
		var st unix.Stat_t
		if err := unix.Stat(abs, &st); err == nil || abs == "/" {
			return fmt.Sprintf("%d:%d/%s", st.Dev, st.Ino, rest)
		}
		rest = filepath.Join(filepath.Base(abs), rest)
		abs = filepath.Dir(abs)
	}
}

// hold locks the directory once it is there.
func (l *runLock) hold(dir string) error {
	if l.dir != nil {
		return nil
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil //nolint:nilerr // it is not there yet, or whoever wants to work in it says what is wrong with it
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return inUse(dir)
	case err != nil: // a file system without locks; the place is locked
		f.Close()
		return nil
	}
	l.dir = f
	return nil
}

func (l *runLock) release() {
	l.place.Close()
	if l.dir != nil {
		l.dir.Close()
	}
}

func inUse(dir string) error {
	return fault.New(fault.RunStore, dir, "another `bpfckpt run` is using it").
		WithRemedy("wait for it, or give another --dir")
}
