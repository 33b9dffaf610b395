package imagetest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

// Places in the header of a file (docs/format.md).
const (
	atVersion, atCodec, atLength, atRaw, atSum, atHeaderSum, headerEnd = 12, 24, 48, 56, 64, 72, 80
)

// stateOf is where an info says what the state file is.
var stateOf = regexp.MustCompile(`"state":{"size":[0-9]+,"sum":[0-9]+}`)

// Format2 makes an image of a store one of format 2, as releases before 0112 wrote it: its state is one JSON document.
// The names in it must be text, and its pipes have no long content.
func Format2(dir, id string) error {
	r, err := image.Open(dir + "@" + id)
	if err != nil {
		return err
	}
	st := r.State()
	_ = r.Close()
	for i := range st.Pipes {
		if st.Pipes[i].Space != 0 {
			return fmt.Errorf("pipe %d has its content in the page map", i)
		}
	}
	text, err := document(st)
	if err != nil {
		return err
	}
	base := filepath.Join(dir, "images", id)
	state, err := rewrite(filepath.Join(base, "state"), func([]byte) []byte { return text })
	if err != nil {
		return err
	}
	for _, name := range []string{"pages", "data"} {
		if _, err := rewrite(filepath.Join(base, name), func(b []byte) []byte { return b }); err != nil {
			return err
		}
	}
	is := fmt.Appendf(nil, `"state":{"size":%d,"sum":%d}`, len(state), binary.LittleEndian.Uint64(state[atSum:]))
	_, err = rewrite(filepath.Join(base, "info"), func(b []byte) []byte { return stateOf.ReplaceAll(b, is) })
	return err
}

// document is a state as one JSON document, in which five kinds of descriptors have their payloads among the fields of
// the file.
func document(st *model.State) ([]byte, error) {
	type file struct {
		model.File
		EventFD model.Payload       `json:"eventfd,omitempty"`
		TimerFD model.Payload       `json:"timerfd,omitempty"`
		SigMask uint64              `json:"sigmask,omitempty"`
		Epoll   []model.EpollTarget `json:"epoll,omitempty"`
		Watches []model.Watch       `json:"watches,omitempty"`
	}
	files := make([]file, len(st.Files))
	for i, f := range st.Files {
		files[i].File = f
		switch p := f.Of.(type) {
		case *model.EventFD:
			files[i].EventFD = p
		case *model.TimerFD:
			files[i].TimerFD = p
		case *model.SignalFD:
			files[i].SigMask = p.Mask
		case *model.Epoll:
			files[i].Epoll = p.Targets
		case *model.Inotify:
			files[i].Watches = p.Watches
		}
	}
	all, err := json.Marshal(st)
	without, err1 := json.Marshal(st.Files)
	with, err2 := json.Marshal(files)
	return bytes.Replace(all, without, with, 1), errors.Join(err, err1, err2)
}

// rewrite makes a file of an image one of format 2, with another content, which is not compressed.
func rewrite(path string, change func(content []byte) []byte) ([]byte, error) {
	old, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b := append(old[:headerEnd:headerEnd], change(old[headerEnd:])...)
	le := binary.LittleEndian
	le.PutUint32(b[atVersion:], 2)
	le.PutUint32(b[atCodec:], 0)
	le.PutUint64(b[atLength:], uint64(len(b)-headerEnd))
	le.PutUint64(b[atRaw:], uint64(len(b)-headerEnd))
	if filepath.Base(path) != "data" {
		le.PutUint64(b[atSum:], xxhash.Sum64(b[headerEnd:]))
	}
	le.PutUint64(b[atHeaderSum:], xxhash.Sum64(b[:atHeaderSum]))
	return b, os.WriteFile(path, b, 0o600)
}
