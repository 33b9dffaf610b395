package job

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/restore"
)

// The standard streams that the command got from run are those of the run that goes on with it. Terminals, pipes and
// sockets are re-attached by their kind; files and devices are known again by what the note of the store says of them.
//
// The same command line again has the same redirection, and the shell empties the file before anything else. So run
// keeps what the command had written to it beside the images, and the restore writes it there again.

// streams is what the standard streams of the command are, by number.
type streams [3]stream

// stream is one of them. The zero value stands for one that is re-attached by its kind, or closed.
type stream struct {
	Dev  uint64 `json:"dev,omitempty"` // of a file
	Ino  uint64 `json:"ino,omitempty"`
	Rdev uint64 `json:"rdev,omitempty"` // of a character device
	Kept int64  `json:"kept,omitempty"` // bytes of it that are in keptDir
}

// keptDir is the directory beside a store's images with what files on standard output and error had: a file for each,
// by its number.
const keptDir = "streams"

func keptPath(dir string, n int) string { return filepath.Join(dir, keptDir, strconv.Itoa(n)) }

// ownStreamFiles is what our own streams are.
func ownStreamFiles() (own streams) {
	for n, f := range OwnStreams() {
		own[n], _ = streamOf(f)
	}
	return own
}

// streamOf also returns the type bits of what f leads to, 0 if it is closed.
func streamOf(f *os.File) (stream, uint32) {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return stream{}, 0
	}
	switch typ := st.Mode & unix.S_IFMT; typ {
	case unix.S_IFREG:
		return stream{Dev: st.Dev, Ino: st.Ino}, typ
	case unix.S_IFCHR:
		return stream{Rdev: st.Rdev}, typ
	default:
		return stream{}, typ
	}
}

func (s stream) isFile() bool { return s.Ino != 0 }

// replaced says which of the streams the command had are ours now, and what the streams are then. A file that the
// command reads from stays what it was, unless we got another file or a pipe in its place: a terminal or /dev/null does
// not mean that the input is over.
func (s streams) replaced(dir string) (now streams, given [3]*restore.Given) {
	for n, own := range OwnStreams() {
		is, typ := streamOf(own)
		had := s[n]
		switch {
		case had == stream{}:
			now[n] = is
			continue
		case typ == 0, n == 0 && had.isFile() && typ == unix.S_IFCHR:
			now[n] = had
			continue
		}
		given[n] = &restore.Given{Dev: had.Dev, Ino: had.Ino, Rdev: had.Rdev}
		if had.Kept > 0 {
			given[n].Kept = keptPath(dir, n)
		}
		if now[n] = is; is.Dev == had.Dev && is.Ino == had.Ino {
			now[n].Kept = had.Kept
		}
	}
	return now, given
}

// keepStreams brings the copies of what the command has written to files up to date. What fails is worth a line, but no
// more.
func (j *Job) keepStreams() {
	for n, f := range OwnStreams() {
		if st := &j.streams[n]; n > 0 && st.isFile() {
			if is, _ := streamOf(f); is.Dev != st.Dev || is.Ino != st.Ino {
				continue
			}
			if err := st.keep(f, j.Dir, n); err != nil {
				st.Kept = 0
				j.Observer.Note(fault.New(fault.RunStore, keptPath(j.Dir, n), "keep what the command wrote to %s: %w",
					f.Name(), err).
					WithRemedy("append to the file (>>) in the next run, so that nothing of it is lost").Error())
			}
		}
	}
}

// keep appends to the copy of stream n what is new in the file, or begins the copy anew.
func (st *stream) keep(f *os.File, store string, n int) error {
	src, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	top, err := beneath.Open(store, beneath.OfOurs)
	if err != nil {
		return err
	}
	defer func() { _ = top.Close() }()
	dir, _, err := top.SubOrMake(keptDir, beneath.OfOurs)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	dst, err := dir.OpenOrCreate(strconv.Itoa(n))
	if err != nil {
		return err
	}
	err = st.copyNew(dst, src)
	return errors.Join(err, dst.Close())
}

func (st *stream) copyNew(dst, src *os.File) error {
	have, err := dst.Stat()
	if err != nil {
		return err
	}
	is, err := src.Stat()
	if err != nil {
		return err
	}
	from := st.Kept
	if from > have.Size() || from > is.Size() {
		from = 0
	}
	if err := dst.Truncate(from); err != nil {
		return err
	}
	if _, err := dst.Seek(from, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(dst, io.NewSectionReader(src, from, is.Size()-from))
	st.Kept = from + n
	return errors.Join(err, dst.Sync())
}

// forgetStreams removes the copies: the command has ended by itself, and its output is complete.
func (j *Job) forgetStreams() {
	if top, err := beneath.Open(j.Dir, beneath.OfOurs); err == nil {
		_ = top.RemoveAll(keptDir) // what is left is overwritten by the next run
		_ = top.Close()
	}
}
