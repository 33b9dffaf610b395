package image

import (
	"time"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Error is a fault about an image or a store: a code, the object, the cause and the remedy.
type Error = fault.Error

// Level is how hard page data is compressed.
type Level string

// The levels. The empty Level means LevelDefault.
const (
	LevelNone    Level = "none"    // stored as it is, page-aligned in the file
	LevelFast    Level = "fast"    // zstd, about level 1
	LevelDefault Level = "default" // zstd, about level 3
	LevelBest    Level = "best"    // zstd, about level 7
)

// WriteOptions says how an image is written.
type WriteOptions struct {
	Name    string // unique in the store; A-Z a-z 0-9 . _ - only, at most 64; "" for none
	Parent  string // id of the image this one continues, "" for none; Keep and Compare take pages from it
	Level   Level  // compression of page data
	Workers int    // goroutines that encode, 0 for GOMAXPROCS; at most 8 are used
	// Accept, if not nil, is called before the image is published, with the state as a reader decodes it from what was
	// written. An error keeps the image from being published, and is returned by Commit as it is.
	Accept func(*model.State) error
}

// Info describes an image without its state.
type Info struct {
	Dir     string // the store
	ID      string // 12 hex digits
	Name    string // "" if it has none
	Parent  string // id, "" if it has none
	Created int64  // wall clock at Create, ns since 1970
	// wall clock at the freeze, which is the moment the image shows, ns since 1970; 0 if nobody said
	Moment   int64
	Freeze   int64  // how long the tree stood still, ns; 0 if nobody said
	Tracking string // dirty page backend that told which pages changed, "" for none
	Root     Root   // the root process
	// ids of the other images whose data files hold some of its pages; they may have been removed since
	Referenced   []string
	Replaces     []string // ids of the images in whose place Squash put this one, the last one first
	Level        Level
	PagesWritten uint64 // data pages in this image's own frames
	PagesZero    uint64 // pages recorded as zero
	PagesShared  uint64 // data pages whose frames are another image's, or that equal another page of this one
	BytesRaw     int64  // PagesWritten in bytes
	BytesWritten int64  // of all files of the image
}

// Taken is the moment the image shows: that of the freeze, or of the beginning of the snapshot where the former is not
// known.
func (i *Info) Taken() time.Time {
	if i.Moment != 0 {
		return time.Unix(0, i.Moment)
	}
	return time.Unix(0, i.Created)
}

// Root names the root process of an image: no two processes ever have all of it in common.
type Root struct {
	Boot  string // Kernel.BootID
	PidNS uint64 // Kernel.PidNS, 0 if not known: of an image that an earlier version made
	Pid   int
	Start uint64 // Process.Start, 0 if not known: then it names nothing
}

// Notes is what a Writer is told of the snapshot it belongs to.
type Notes struct {
	Freeze   int64  // how long the tree stood still, ns
	Tracking string // name of the dirty page backend
}

// Kind tells what a Run stands for.
type Kind uint8

// The kinds of run.
const (
	Data Kind = iota // pages whose content Load delivers
	Zero             // pages that are all zero, and must be made so where the mapping would not be
)

// Run is a stretch of pages of one kind.
type Run struct {
	Addr  uint64 // bytes
	Pages uint64
	Kind  Kind
}
