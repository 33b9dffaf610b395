package image

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// maxWorkers bounds the goroutines of one Writer, Load or Verify, and with them the memory for buffers.
const maxWorkers = 8

// workers returns how many goroutines to use if n are asked for.
func workers(n int) int {
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return min(n, maxWorkers)
}

// Levels are the compression levels, weakest first.
func Levels() []Level { return []Level{LevelNone, LevelFast, LevelDefault, LevelBest} }

// ParseLevel checks a level given by a user; "" is LevelDefault. The fault is E_STORE_OPTION.
func ParseLevel(s string) (Level, error) {
	if s == "" {
		return LevelDefault, nil
	}
	if !slices.Contains(Levels(), Level(s)) {
		return "", fault.New(fault.StoreOption, fmt.Sprintf("compression %q", s), "there is no such level").
			WithRemedy("use one of none, fast, default, best")
	}
	return Level(s), nil
}

// newEncoder returns a zstd encoder for frames, nil for LevelNone. LevelBest is not zstd's slowest level, whose tables
// take 32 MiB for each worker.
func newEncoder(l Level) (*zstd.Encoder, error) {
	speed := zstd.SpeedDefault
	switch l {
	case LevelNone:
		return nil, nil
	case LevelFast:
		speed = zstd.SpeedFastest
	case LevelBest:
		speed = zstd.SpeedBetterCompression
	}
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(speed), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(maxFrame),
		zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(true))
}

// encodeFrame returns what to store for raw: raw itself, or its compressed form in out's memory if that is smaller
// enough to be worth decoding.
func encodeFrame(enc *zstd.Encoder, out, raw []byte) ([]byte, codec) {
	if enc == nil {
		return raw, codecRaw
	}
	out = enc.EncodeAll(raw, out[:0])
	if len(out) >= len(raw)-len(raw)/32 {
		return raw, codecRaw
	}
	return out, codecZstd
}

// frameReader reads frames of one image; one goroutine uses it.
type frameReader struct {
	r      *Reader
	dec    *zstd.Decoder
	stored []byte
	raw    []byte
}

// newDecoder returns a zstd decoder for DecodeAll into memory at hand: it never allocates for output. Windows are
// bounded by what encoders use at most by default; nothing is allocated for them either.
func newDecoder(raw uint64) (*zstd.Decoder, error) {
	limit := max(raw, 8<<20)
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderMaxWindow(limit))
}

// read returns the decoded bytes of frame i, checked; they are valid until the next read.
func (fr *frameReader) read(i uint32) ([]byte, error) {
	f := &fr.r.pages.frames[i]
	file := fr.r.data[f.image]
	if fr.raw == nil {
		raw, stored := fr.r.pages.largest()
		fr.raw, fr.stored = make([]byte, raw), make([]byte, max(stored, model.PageSize)) // a gap has less than a page
	}
	buf := fr.raw[:f.raw]
	if f.codec != codecRaw {
		buf = fr.stored[:f.stored]
	}
	if _, err := file.ReadAt(buf, int64(f.offset)); err != nil {
		return nil, readFault(file.Name(), err)
	}
	if xxhash.Sum64(buf) != f.sum {
		return nil, fault.New(fault.ImageDamaged, file.Name(), "frame %d, at byte %d: its checksum does not match", i,
			f.offset)
	}
	if f.image == 0 {
		if err := fr.checkGap(file, i); err != nil {
			return nil, err
		}
	}
	if f.codec == codecRaw {
		return buf, nil
	}
	return fr.decode(file.Name(), i, buf)
}

// decode decompresses frame i.
func (fr *frameReader) decode(path string, i uint32, buf []byte) ([]byte, error) {
	f := &fr.r.pages.frames[i]
	if fr.dec == nil {
		dec, err := newDecoder(maxFrame)
		if err != nil {
			return nil, fmt.Errorf("make a decoder: %w", err)
		}
		fr.dec = dec
	}
	out, err := fr.dec.DecodeAll(buf, fr.raw[:0:f.raw])
	if err != nil {
		return nil, fault.New(fault.ImageDamaged, path, "frame %d, at byte %d: %w", i, f.offset, err)
	}
	if len(out) != int(f.raw) {
		return nil, fault.New(fault.ImageDamaged, path, "frame %d, at byte %d: %d bytes when decoded instead of %d", i,
			f.offset, len(out), f.raw)
	}
	return out, nil
}

// checkGap checks that the bytes that align a raw frame of the image itself are zero.
func (fr *frameReader) checkGap(file PartFile, i uint32) error {
	from := fr.r.pages.gapStart(i)
	f := &fr.r.pages.frames[i]
	if from == f.offset {
		return nil
	}
	gap := fr.stored[:f.offset-from] // only raw frames have one, and those do not use stored
	if _, err := file.ReadAt(gap, int64(from)); err != nil {
		return readFault(file.Name(), err)
	}
	if !isZero(gap) {
		return fault.New(fault.ImageDamaged, file.Name(), "the padding at byte %d is not zero", from)
	}
	return nil
}

// close releases the decoder.
func (fr *frameReader) close() {
	if fr.dec != nil {
		fr.dec.Close()
	}
}

// zeroPage is what pages and padding are compared with; it is never written to.
var zeroPage [model.PageSize]byte

// isZero reports whether b is all zero.
func isZero(b []byte) bool {
	for len(b) > model.PageSize {
		if !bytes.Equal(b[:model.PageSize], zeroPage[:]) {
			return false
		}
		b = b[model.PageSize:]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
