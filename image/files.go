package image

import (
	"fmt"
	"reflect"

	"github.com/bpfckpt/bpfckpt/model"
)

// What only one kind of descriptors has is a record of its own (fdKind). It was not always so: what the five kinds here
// have stands behind the fields that all have, in the record of the files, and in the JSON of a state up to version 2
// of the format. This is what is stored; it does not grow.

// storedFile is a description with what is stored of the five kinds.
type storedFile struct {
	model.File
	EventFD *model.EventFD      `json:"eventfd,omitempty"`
	TimerFD *model.TimerFD      `json:"timerfd,omitempty"`
	SigMask uint64              `json:"sigmask,omitempty"`
	Epoll   []model.EpollTarget `json:"epoll,omitempty"`
	Watches []model.Watch       `json:"watches,omitempty"`
}

// storedState is a state as it was one JSON document.
type storedState struct {
	model.State
	Files []storedFile `json:"files"`
}

// state returns the state that a document was.
func (d *storedState) state() (*model.State, error) {
	st := &d.State
	if d.Files == nil {
		return st, nil
	}
	st.Files = make([]model.File, len(d.Files))
	for i := range d.Files {
		if err := d.Files[i].unpack(&st.Files[i]); err != nil {
			return nil, fmt.Errorf("file %d: %w", i, err)
		}
	}
	return st, nil
}

// pack sets s to what is stored of f.
func (s *storedFile) pack(f *model.File) {
	*s = storedFile{File: *f}
	switch p := f.Of.(type) {
	case *model.EventFD:
		s.EventFD = p
	case *model.TimerFD:
		s.TimerFD = p
	case *model.SignalFD:
		s.SigMask = p.Mask
	case *model.Epoll:
		s.Epoll = p.Targets
	case *model.Inotify:
		s.Watches = p.Watches
	}
}

// unpack sets f to what s says, and uses s up.
func (s *storedFile) unpack(f *model.File) error {
	*f = s.File
	switch s.Kind {
	case "eventfd":
		if s.EventFD != nil {
			f.Of, s.EventFD = s.EventFD, nil
		}
	case "timerfd":
		if s.TimerFD != nil {
			f.Of, s.TimerFD = s.TimerFD, nil
		}
	case "signalfd":
		f.Of, s.SigMask = &model.SignalFD{Mask: s.SigMask}, 0
	case "epoll":
		f.Of, s.Epoll = &model.Epoll{Targets: s.Epoll}, nil
	case "inotify":
		f.Of, s.Watches = &model.Inotify{Watches: s.Watches}, nil
	}
	if s.EventFD != nil || s.TimerFD != nil || s.SigMask != 0 || s.Epoll != nil || s.Watches != nil {
		return fmt.Errorf("it is a %s and has what belongs to others", s.Kind)
	}
	return nil
}

// inFiles reports whether a payload stands in the record of the files.
func inFiles(p model.Payload) bool {
	switch p.(type) {
	case *model.EventFD, *model.TimerFD, *model.SignalFD, *model.Epoll, *model.Inotify:
		return true
	}
	return false
}

// filesKind is the descriptions, with what the five kinds have.
func filesKind() recordKind {
	k := recordKind{name: "files", packed: true, shape: newShape(reflect.TypeFor[[]storedFile]())}
	one := k.shape.elem
	k.encode = func(st *model.State, add func(uint32, []byte)) error {
		version := uint32(1)
		payload := packList(one, st.Files == nil, len(st.Files), func(i int, s *storedFile) {
			s.pack(&st.Files[i])
			version = max(version, one.needed(s))
		})
		add(version, payload)
		return nil
	}
	k.decode = func(st *model.State, payload []byte) (version uint32, err error) {
		var files []model.File
		version = 1
		err = unpackList(one, payload, func(n int) { files = make([]model.File, n) }, func(i int, s *storedFile) error {
			version = max(version, one.needed(s))
			return s.unpack(&files[i])
		})
		if err == nil {
			err = attach(st.Files, files)
		}
		st.Files = files
		return version, err
	}
	return k
}

// fdKinds is the kinds of records for what only one kind of descriptors has: for each description a record of the ID
// and the payload. They come before that of the files.
func fdKinds() []recordKind {
	var out []recordKind
	for _, k := range model.FDKinds() {
		if k.New != nil && !inFiles(k.New()) {
			out = append(out, fdKind(k))
		}
	}
	return out
}

func fdKind(of *model.FDKind) recordKind {
	typ := reflect.StructOf([]reflect.StructField{
		{Name: "File", Type: reflect.TypeFor[int](), Tag: `json:"file"`},
		{Name: "Of", Type: reflect.TypeOf(of.New()).Elem(), Tag: `json:"of"`},
	})
	k := recordKind{name: "fd-" + of.Name, many: true, shape: newShape(typ)}
	k.shape.name = k.name
	k.encode = func(st *model.State, add func(uint32, []byte)) error {
		for i := range st.Files {
			f := &st.Files[i]
			if f.Kind != of.Name || f.Of == nil {
				continue
			}
			v := reflect.New(typ)
			v.Elem().Field(0).SetInt(int64(f.ID))
			v.Elem().Field(1).Set(reflect.ValueOf(f.Of).Elem())
			b, err := encodeJSON(v.Interface(), v.Interface())
			if err != nil {
				return err
			}
			add(k.shape.needed(v.Interface()), b)
		}
		return nil
	}
	k.decode = func(st *model.State, payload []byte) (uint32, error) {
		v := reflect.New(typ)
		if err := decodeJSON(payload, v.Interface(), k.shape); err != nil {
			return 0, err
		}
		// It waits for the record of the files.
		st.Files = append(st.Files, model.File{
			ID: int(v.Elem().Field(0).Int()), Kind: of.Name, Of: v.Elem().Field(1).Addr().Interface().(model.Payload),
		})
		return k.shape.needed(v.Interface()), nil
	}
	return k
}

// attach gives files what came before them in records of their own.
func attach(before, files []model.File) error {
	if len(before) == 0 {
		return nil
	}
	byID := make(map[int]*model.File, len(files))
	for i := range files {
		byID[files[i].ID] = &files[i]
	}
	for i := range before {
		f := byID[before[i].ID]
		if f == nil || f.Kind != before[i].Kind || f.Of != nil {
			return fmt.Errorf("a record fd-%s of file %d, which is no such one or has had its own", before[i].Kind, before[i].ID)
		}
		f.Of = before[i].Of
	}
	return nil
}
