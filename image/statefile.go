package image

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// writeState writes the state file. raw is the records of a state.
func (w *Writer) writeState(raw []byte, syncs *syncer) (fileRecord, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return fileRecord{}, fmt.Errorf("make a compressor: %w", err)
	}
	b, how := enc.EncodeAll(raw, nil), codecZstd
	if n := uint64(len(b)); len(b) >= len(raw) || uint64(len(raw)) > maxRawState(n, formatVersion) {
		b, how = raw, codecRaw
	}
	if uint64(len(raw)) > maxRawState(uint64(len(b)), formatVersion) {
		return fileRecord{}, fault.New(fault.StoreRefused, w.ws.id,
			"the state has %d bytes, beyond the %d of the format", len(raw), maxState)
	}
	h := header{
		kind: kindState, codec: how, id: w.ws.id, length: uint64(len(b)), raw: uint64(len(raw)),
		sum: xxhash.Sum64(b),
	}
	if err := w.createPart(PartState, syncs, h.encode(), b); err != nil {
		return fileRecord{}, err
	}
	return fileRecord{Size: headerSize + int64(len(b)), Sum: h.sum}, nil
}

// readState reads the state of an image. unknown is as in decodeState.
func readState(from source, id string, want fileRecord) (st *model.State, unknown []stateRecord, err error) {
	raw, h, file, err := readRawState(from, id, want)
	if err != nil {
		return nil, nil, err
	}
	if h.format < recordVersion {
		st, err = decodeOldState(raw)
	} else {
		st, unknown, err = decodeState(raw)
	}
	var later *laterVersion
	if errors.As(err, &later) {
		return nil, nil, fault.New(fault.ImageFeature, file, "%w", later)
	}
	if err == nil {
		err = st.Validate()
	}
	if err != nil {
		return nil, nil, fault.New(fault.ImageState, file, "%w", err)
	}
	return st, unknown, nil
}

// readRawState reads the state of an image and decompresses it. file is its name for messages.
func readRawState(from source, id string, want fileRecord) (raw []byte, h header, file string, err error) {
	f, h, err := openBound(from, kindState, id, want)
	if err != nil {
		return nil, h, "", err
	}
	defer func() { _ = f.Close() }()
	if h.raw > maxRawState(h.length, h.format) {
		return nil, h, "", fault.New(fault.ImageSize, f.Name(), "%d bytes of state, %d when decoded", h.length, h.raw)
	}
	b, err := readSummed(f, h)
	if err == nil && h.codec == codecZstd {
		if b, err = inflate(b, h.raw); err != nil {
			err = fault.New(fault.ImageDamaged, f.Name(), "%w", err)
		}
	}
	return b, h, f.Name(), err
}

// oldShape is the shape of the one document that a state was up to version 2 of the format.
var oldShape = sync.OnceValue(func() *shape { return newShape(reflect.TypeFor[storedState]()) })

// decodeOldState decodes a state that is one JSON document.
func decodeOldState(b []byte) (*model.State, error) {
	d := new(storedState)
	if err := decodeJSON(b, d, oldShape()); err != nil {
		return nil, err
	}
	return d.state()
}

// maxRawState is how many bytes of state a file may decode to if it stores n: what a hostile file makes us allocate is
// in proportion to its own size.
func maxRawState(n uint64, format uint32) uint64 {
	free := uint64(stateFree)
	if format < recordVersion {
		free = oldStateFree
	}
	return min(maxState, free+stateRatio*min(n, maxState))
}

// inflate decodes one zstd frame of exactly raw bytes.
func inflate(b []byte, raw uint64) ([]byte, error) {
	dec, err := newDecoder(raw)
	if err != nil {
		return nil, fmt.Errorf("make a decoder: %w", err)
	}
	defer dec.Close()
	out, err := dec.DecodeAll(b, make([]byte, 0, raw))
	if err != nil {
		return nil, err
	}
	if uint64(len(out)) != raw {
		return nil, fmt.Errorf("%d bytes when decoded instead of %d", len(out), raw)
	}
	return out, nil
}
