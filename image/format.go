package image

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// The numbers of the format; docs/format.md explains them.
const (
	formatVersion = 3 // what is written: the state is records
	oldestVersion = 1 // what is still read; up to version 2 the state is one JSON document
	recordVersion = 3
	headerSize    = 80
	dataStart     = model.PageSize // the first frame's offset in a data file
	maxFrame      = 1 << 20        // raw bytes of a frame
	maxInfo       = 128 << 10      // bytes of an info file's JSON
	stateFree     = 1 << 20        // raw bytes of state that any file may hold
	oldStateFree  = 16 << 20       // the same of one JSON document, which takes less memory for each byte
	stateRatio    = 64             // raw bytes of state more for each stored byte
	maxState      = 1 << 30        // raw bytes of state at all
	maxImages     = 1 << 12        // images that one page map may name
	idDigits      = 12             // hex digits of an image id
	idField       = 16             // bytes an id takes in a file, zero padded
	storeMark     = "bpfckpt store 1\n"
	magic         = "bpfckpt\x1a"
)

// mustUnderstand are the must-understand bits this release has a meaning for.
const mustUnderstand uint64 = 0

// fileKind is what a file of an image holds; it is part of the header.
type fileKind string

const (
	kindInfo  fileKind = "INFO"
	kindState fileKind = "STAT"
	kindPages fileKind = "PMAP"
	kindData  fileKind = "DATA"
)

// partOf is which part of an image a file is.
var partOf = map[fileKind]Part{kindInfo: PartInfo, kindState: PartState, kindPages: PartPages, kindData: PartData}

// codec tells how bytes are stored.
type codec uint32

const (
	codecRaw  codec = 0
	codecZstd codec = 1
)

// header starts every file of an image.
type header struct {
	kind   fileKind
	format uint32 // version of the format; formatVersion when written
	must   uint64
	codec  codec
	id     string
	length uint64 // bytes after the header
	raw    uint64 // bytes after decoding
	sum    uint64 // xxhash64 of the bytes after the header; 0 in a data file, whose frames have their own
}

// encode returns the header's bytes.
func (h *header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	copy(b[8:12], h.kind)
	le := binary.LittleEndian
	le.PutUint32(b[12:], formatVersion)
	le.PutUint64(b[16:], h.must)
	le.PutUint32(b[24:], uint32(h.codec))
	copy(b[32:48], h.id)
	le.PutUint64(b[48:], h.length)
	le.PutUint64(b[56:], h.raw)
	le.PutUint64(b[64:], h.sum)
	le.PutUint64(b[72:], xxhash.Sum64(b[:72]))
	return b
}

// decodeHeader checks a header against what its place demands. size is that of the whole file, path for messages.
func decodeHeader(path string, b []byte, kind fileKind, id string, size int64) (header, error) {
	if len(b) < headerSize {
		return header{}, fault.New(fault.ImageTruncated, path, "the file has %d bytes, its header alone has %d", size,
			headerSize)
	}
	le := binary.LittleEndian
	if string(b[:8]) != magic {
		return header{}, fault.New(fault.ImageVersion, path, "it does not begin like a file of an image")
	}
	if v := le.Uint32(b[12:]); v < oldestVersion || v > formatVersion {
		return header{}, fault.New(fault.ImageVersion, path, "format version %d; this release reads versions %d to %d",
			v, oldestVersion, formatVersion)
	}
	if le.Uint64(b[72:]) != xxhash.Sum64(b[:72]) {
		return header{}, fault.New(fault.ImageDamaged, path, "the header's checksum does not match")
	}
	h := header{
		kind: fileKind(b[8:12]), format: le.Uint32(b[12:]), must: le.Uint64(b[16:]), codec: codec(le.Uint32(b[24:])),
		id: trimID(b[32:48]), length: le.Uint64(b[48:]), raw: le.Uint64(b[56:]), sum: le.Uint64(b[64:]),
	}
	if unknown := h.must &^ mustUnderstand; unknown != 0 {
		return header{}, fault.New(fault.ImageFeature, path, "must-understand bits %#x are unknown to this release",
			unknown)
	}
	switch {
	case h.kind != kind:
		return header{}, fault.New(fault.ImageDamaged, path, "it is a %q file in the place of a %q file", h.kind, kind)
	case h.id != id:
		return header{}, fault.New(fault.ImageDamaged, path, "it belongs to image %q, not %q", h.id, id)
	case le.Uint32(b[28:]) != 0:
		return header{}, fault.New(fault.ImageDamaged, path, "a reserved field of the header is not zero")
	case h.codec > codecZstd:
		return header{}, fault.New(fault.ImageDamaged, path, "unknown codec %d", h.codec)
	case h.codec == codecRaw && h.raw != h.length:
		return header{}, fault.New(fault.ImageSize, path, "%d bytes stored as they are, yet %d when decoded", h.length,
			h.raw)
	case h.length != uint64(size-headerSize):
		return header{}, fault.New(fault.ImageTruncated, path, "the file has %d bytes, its header says %d", size,
			h.length+headerSize)
	}
	return h, nil
}

// trimID returns the id in a zero-padded field, or something that is no id.
func trimID(b []byte) string {
	for i, c := range b {
		if c == 0 {
			b, rest := b[:i], b[i:]
			for _, r := range rest {
				if r != 0 {
					return fmt.Sprintf("%q", b)
				}
			}
			return string(b)
		}
	}
	return string(b)
}

// isID reports whether s can be an image id; only then may it be part of a path.
func isID(s string) bool { return len(s) == idDigits && isHex(s) }

// isHex reports whether s has only lower-case hex digits.
func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// openPart opens a part of an image and checks its header. The file's errors are made faults here.
func openPart(from source, p Part, kind fileKind, id string) (PartFile, header, error) {
	f, err := from.Open(p)
	if err != nil {
		return nil, header{}, err
	}
	b := make([]byte, min(int64(headerSize), max(f.Size(), 0)))
	if _, err := f.ReadAt(b, 0); err != nil && (err != io.EOF || len(b) > 0) {
		_ = f.Close()
		return nil, header{}, readFault(f.Name(), err)
	}
	h, err := decodeHeader(f.Name(), b, kind, id, f.Size())
	if err != nil {
		_ = f.Close()
		return nil, header{}, err
	}
	return f, h, nil
}
