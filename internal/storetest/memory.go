package storetest

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Memory is a store in memory: the least that a store can be.
type Memory struct {
	lock chan struct{} // the store's lock: whoever has put something in has it

	mu     sync.Mutex // guards what follows
	made   bool
	head   string
	images map[string]parts
	drafts map[*draft]bool
}

// parts are the parts of an image. One that is published is never changed, only replaced.
type parts map[image.Part][]byte

// NewMemory returns a store that is not made yet.
func NewMemory() *Memory {
	return &Memory{lock: make(chan struct{}, 1), images: map[string]parts{}, drafts: map[*draft]bool{}}
}

// Name is the same for all.
func (m *Memory) Name() string { return "memory" }

// Check finds a store that was made.
func (m *Memory) Check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.made {
		return fault.New(fault.StoreNotFound, m.Name(), "nobody has stored anything")
	}
	return nil
}

// IDs lists all images.
func (m *Memory) IDs() ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.images)), nil
}

// Has looks a part up.
func (m *Memory) Has(id string, p image.Part) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.images[id][p]
	return ok
}

// Open returns the bytes of a part.
func (m *Memory) Open(id string, p image.Part) (image.PartFile, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return open(m.images[id], id, p)
}

func open(of parts, id string, p image.Part) (image.PartFile, error) {
	name := "memory@" + id + "/" + string(p)
	b, ok := of[p]
	if !ok {
		return nil, fault.New(fault.ImageMissing, name, "%w", fs.ErrNotExist)
	}
	return file{bytes.NewReader(b), name}, nil
}

// file is an open part.
type file struct {
	*bytes.Reader
	name string
}

func (f file) Name() string { return f.name }
func (f file) Close() error { return nil }

// Head is the head.
func (m *Memory) Head() (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.head, nil
}

// Pinned lists what drafts need.
func (m *Memory) Pinned() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for d := range m.drafts {
		if d.pinned != "" {
			ids = append(ids, d.pinned)
		}
	}
	return ids
}

// Lock waits for the lock, a second at most.
func (m *Memory) Lock(create bool) (image.Locked, error) {
	select {
	case m.lock <- struct{}{}:
	case <-time.After(time.Second):
		return nil, fault.New(fault.StoreBusy, m.Name(), "its lock is not free")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &locked{Memory: m, madeIt: create && !m.made}
	m.made = m.made || create
	return l, nil
}

// locked is the store while it is locked.
type locked struct {
	*Memory
	madeIt bool
}

func (l *locked) Unlock() { <-l.lock }

func (l *locked) Unmake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.madeIt && len(l.images) == 0 && len(l.drafts) == 0 {
		l.made = false
	}
}

func (l *locked) Begin(pinned string) (image.Draft, error) {
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	d := &draft{m: l.Memory, id: hex.EncodeToString(id[:]), pinned: pinned, parts: parts{}, madeIt: l.madeIt}
	l.drafts[d] = true
	return d, nil
}

func (l *locked) Publish(d image.Draft, head bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	mine := d.(*draft)
	l.images[mine.id] = mine.parts
	if head {
		l.head = mine.id
	}
	delete(l.drafts, mine)
	return nil
}

func (l *locked) SetHead(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = id
	return nil
}

// change replaces the parts of an image by what f makes of a copy.
func (l *locked) change(id string, f func(p parts)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := maps.Clone(l.images[id])
	if p == nil {
		return fs.ErrNotExist
	}
	f(p)
	l.images[id] = p
	return nil
}

func (l *locked) Retire(id string) error {
	return l.change(id, func(p parts) {
		p[image.PartRemoved] = p[image.PartInfo]
		delete(p, image.PartInfo)
	})
}

func (l *locked) Shrink(id string, used []image.Extent) error {
	return l.change(id, func(p parts) {
		delete(p, image.PartState)
		delete(p, image.PartPages)
		if used == nil {
			return
		}
		const head = 4096 // of the data, up to the first frame
		data := p[image.PartData]
		kept := make([]byte, len(data))
		copy(kept, data[:min(head, len(data))])
		for _, e := range used {
			copy(kept[e.Offset:], data[e.Offset:e.Offset+e.Length])
		}
		p[image.PartData] = kept
	})
}

func (l *locked) Drop(id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.images, id)
	return nil
}

func (l *locked) Size(id string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var n int64
	for _, b := range l.images[id] {
		n += int64(len(b))
	}
	return n
}

// draft is an image being written.
type draft struct {
	m      *Memory
	id     string
	pinned string
	madeIt bool // the store was made for it

	mu    sync.Mutex
	parts parts
}

func (d *draft) ID() string  { return d.id }
func (d *draft) Sync() error { return nil }

func (d *draft) Create(p image.Part) (image.DraftFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.parts[p]; ok {
		return nil, fs.ErrExist
	}
	d.parts[p] = nil
	return &draftFile{d: d, part: p}, nil
}

func (d *draft) Open(p image.Part) (image.PartFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return open(d.parts, d.id, p)
}

func (d *draft) Discard() {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	delete(d.m.drafts, d)
	if d.madeIt && len(d.m.images) == 0 && len(d.m.drafts) == 0 {
		d.m.made = false
	}
}

// draftFile is a part being written.
type draftFile struct {
	d    *draft
	part image.Part
	end  int64 // of what Write wrote
}

func (f *draftFile) Write(b []byte) (int, error) {
	n, err := f.WriteAt(b, f.end)
	f.end += int64(n)
	return n, err
}

func (f *draftFile) WriteAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	content := f.d.parts[f.part]
	if grow := off + int64(len(b)) - int64(len(content)); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	copy(content[off:], b)
	f.d.parts[f.part] = content
	return len(b), nil
}

func (f *draftFile) Sync() error  { return nil }
func (f *draftFile) Close() error { return nil }
