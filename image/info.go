package image

import (
	"encoding/json"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// infoRecord is the content of an info file: what an image is, and what binds its other files together.
type infoRecord struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	Parent       string     `json:"parent"`
	Created      int64      `json:"created"` // ns since 1970
	Level        Level      `json:"level"`
	PagesWritten uint64     `json:"pages_written"`
	PagesZero    uint64     `json:"pages_zero"`
	PagesShared  uint64     `json:"pages_shared"`
	State        fileRecord `json:"state"`
	Pages        fileRecord `json:"pages"`
	Data         fileRecord `json:"data"`
	Freeze       int64      `json:"freeze,omitempty"` // ns
	Moment       int64      `json:"moment,omitempty"` // ns since 1970
	Tracking     string     `json:"tracking,omitempty"`
	Boot         string     `json:"boot,omitempty"`
	PidNS        uint64     `json:"pidns,omitempty"`
	Pid          int        `json:"pid,omitempty"`
	Start        uint64     `json:"start,omitempty"`
	// as in the page map, so that nobody needs that to know what must stay
	Referenced []string `json:"lenders,omitempty"`
	Replaces   []string `json:"replaces,omitempty"`
}

// fileRecord identifies one of the other files of an image.
type fileRecord struct {
	Size int64  `json:"size"` // bytes, with the header
	Sum  uint64 `json:"sum"`  // as in its header
}

// info returns what users see of a record. The info file's own size is that of its parts.
func (r *infoRecord) info(store string) Info {
	b, _ := json.Marshal(r) // a struct of numbers and strings
	return Info{
		Dir: store, ID: r.ID, Name: r.Name, Parent: r.Parent, Created: r.Created, Level: r.Level,
		Freeze: r.Freeze, Moment: r.Moment, Tracking: r.Tracking, Root: Root{r.Boot, r.PidNS, r.Pid, r.Start},
		Referenced: r.Referenced, Replaces: r.Replaces,
		PagesWritten: r.PagesWritten, PagesZero: r.PagesZero, PagesShared: r.PagesShared,
		BytesRaw:     int64(r.PagesWritten) * model.PageSize,
		BytesWritten: r.State.Size + r.Pages.Size + r.Data.Size + headerSize + int64(len(b)),
	}
}

// check tells what is wrong with a record, "" if nothing.
func (r *infoRecord) check() string {
	switch {
	case r.Name != "" && !validName(r.Name):
		return "the name is not one an image can have"
	case r.Parent != "" && !isID(r.Parent):
		return "the parent is not an id"
	case len(r.Referenced) >= maxImages || slices.ContainsFunc(append(slices.Clone(r.Referenced), r.Replaces...), r.notOther):
		return "an id of another image is none"
	case r.Freeze < 0 || r.Moment < 0 || len(r.Tracking) > maxName || len(r.Boot) > maxName || r.Pid < 0:
		return "a note is absurd"
	case r.PagesWritten > model.MaxAddr/model.PageSize || r.PagesZero > 1<<62 || r.PagesShared > 1<<62:
		return "a count is absurd"
	}
	for _, f := range []fileRecord{r.State, r.Pages, r.Data} {
		if f.Size < headerSize || f.Size > 1<<60 {
			return "the size of a file is absurd"
		}
	}
	if _, err := ParseLevel(string(r.Level)); err != nil {
		return "the compression level is unknown"
	}
	return ""
}

// notOther reports whether an id is none, or the image's own.
func (r *infoRecord) notOther(id string) bool { return !isID(id) || id == r.ID }

// readInfo reads what an image is, from PartInfo or PartRemoved.
func readInfo(from source, p Part, id string) (*infoRecord, error) {
	f, h, err := openPart(from, p, kindInfo, id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if h.length > maxInfo || h.codec != codecRaw {
		return nil, fault.New(fault.ImageSize, f.Name(), "%d bytes of info", h.length)
	}
	b, err := readSummed(f, h)
	if err != nil {
		return nil, err
	}
	var rec infoRecord
	if err := strictJSON(b, &rec); err != nil {
		return nil, fault.New(fault.ImageState, f.Name(), "%w", err)
	}
	if rec.ID != id {
		return nil, fault.New(fault.ImageDamaged, f.Name(), "it describes image %q, not %q", rec.ID, id)
	}
	if why := rec.check(); why != "" {
		return nil, fault.New(fault.ImageState, f.Name(), "%s", why)
	}
	return &rec, nil
}

// readSummed reads what follows the header of a file, whose length the caller has bounded, and checks its sum.
func readSummed(f PartFile, h header) ([]byte, error) {
	b := make([]byte, h.length)
	if _, err := io.ReadFull(io.NewSectionReader(f, headerSize, int64(h.length)), b); err != nil {
		return nil, readFault(f.Name(), err)
	}
	if xxhash.Sum64(b) != h.sum {
		return nil, fault.New(fault.ImageDamaged, f.Name(), "the checksum of its content does not match")
	}
	return b, nil
}

// openBound opens a file of the image and checks that it is the one its record names.
func openBound(from source, kind fileKind, id string, want fileRecord) (PartFile, header, error) {
	f, h, err := openPart(from, partOf[kind], kind, id)
	if err != nil {
		return nil, header{}, err
	}
	if size := int64(h.length) + headerSize; size != want.Size || h.sum != want.Sum {
		_ = f.Close()
		return nil, header{}, fault.New(fault.ImageDamaged, f.Name(), "it is not the file that %s was written with",
			PartInfo)
	}
	return f, h, nil
}
