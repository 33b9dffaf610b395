package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/model"
)

// stateRecord is one of the records that a state is stored as.
//
//	kind, zero padded to 16 bytes | version, 4 | flags, 4: bit 0 must be understood | length, 8 | payload
type stateRecord struct {
	kind    string
	version uint32
	must    bool // a reader that does not understand it must not use the state
	payload []byte
}

// Sizes of a record's head in bytes, and its flag.
const (
	recordHead  = 32
	kindField   = 16
	mustBeKnown = 1
)

// maxUnknown is how many records that it does not understand a reader puts up with.
const maxUnknown = 64

// String names what the record needs: its kind and version.
func (r *stateRecord) String() string { return fmt.Sprintf("%s %d", r.kind, r.version) }

// append adds the record to b.
func (r *stateRecord) append(b []byte) []byte {
	flags := uint32(0)
	if r.must {
		flags = mustBeKnown
	}
	le := binary.LittleEndian
	b = append(b, r.kind...)
	b = append(b, make([]byte, kindField-len(r.kind))...)
	b = le.AppendUint32(b, r.version)
	b = le.AppendUint32(b, flags)
	b = le.AppendUint64(b, uint64(len(r.payload)))
	return append(b, r.payload...)
}

// nextRecord takes the first record off b.
func nextRecord(b []byte) (r stateRecord, rest []byte, err error) {
	if len(b) < recordHead {
		return r, nil, fmt.Errorf("%d bytes where a record has a head of %d", len(b), recordHead)
	}
	le := binary.LittleEndian
	kind, padding, _ := bytes.Cut(b[:kindField], []byte{0})
	flags, n := le.Uint32(b[kindField+4:]), le.Uint64(b[kindField+8:])
	r = stateRecord{kind: string(kind), version: le.Uint32(b[kindField:]), must: flags&mustBeKnown != 0}
	b = b[recordHead:]
	switch {
	case !validKind(r.kind) || len(bytes.Trim(padding, "\x00")) > 0:
		return r, nil, fmt.Errorf("a record of the kind %q, which cannot be one", kind)
	case r.version == 0 || flags&^mustBeKnown != 0:
		return r, nil, fmt.Errorf("a record %s with the flags %#x", &r, flags)
	case n > uint64(len(b)):
		return r, nil, fmt.Errorf("a record %s of %d bytes where %d are left", &r, n, len(b))
	}
	r.payload = b[:n:n]
	return r, b[n:], nil
}

// validKind reports whether a kind of records may be called so.
func validKind(name string) bool {
	return name != "" && len(name) <= kindField && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz-") == ""
}

// laterVersion is the error for a state whose records this release does not understand although it must.
type laterVersion struct{ needs []string }

func (e *laterVersion) Error() string {
	return "written by a later version: needs " + strings.Join(e.needs, ", ")
}

// splitRecords takes a state apart into the records that this release understands and those that it does not and need
// not. If it must, the error is a *laterVersion that names all it lacks.
func splitRecords(b []byte, kinds []recordKind) (known, unknown []stateRecord, err error) {
	var later laterVersion
	for len(b) > 0 {
		var r stateRecord
		if r, b, err = nextRecord(b); err != nil {
			return nil, nil, err
		}
		k := slices.IndexFunc(kinds, func(k recordKind) bool { return k.name == r.kind })
		switch {
		case k >= 0 && r.version <= kinds[k].version():
			known = append(known, r)
		case !r.must:
			unknown = append(unknown, r)
		case !slices.Contains(later.needs, r.String()):
			later.needs = append(later.needs, r.String())
		}
		if len(later.needs) > maxUnknown || len(unknown) > maxUnknown {
			return nil, nil, errors.New("more records that nobody understands than there can be")
		}
	}
	if len(later.needs) > 0 {
		return nil, nil, &later
	}
	return known, unknown, nil
}

// encodeState returns the records of a state.
func encodeState(st *model.State) ([]byte, error) { return encodeKinds(st, recordKinds()) }

func encodeKinds(st *model.State, kinds []recordKind) (out []byte, err error) {
	for i := range kinds {
		k := &kinds[i]
		err := k.encode(st, func(version uint32, payload []byte) {
			r := stateRecord{kind: k.name, version: version, must: !k.skip, payload: payload}
			out = r.append(out)
		})
		if err != nil {
			return nil, fmt.Errorf("a record of the kind %s: %w", k.name, err)
		}
	}
	return out, nil
}

// decodeState undoes encodeState. unknown is the records that this release does not understand and need not.
func decodeState(b []byte) (st *model.State, unknown []stateRecord, err error) {
	return decodeKinds(b, recordKinds())
}

// decodeKinds is strict: the kinds come in the order of the table, each as often as it may, in the form in which they
// are written.
func decodeKinds(b []byte, kinds []recordKind) (*model.State, []stateRecord, error) {
	records, unknown, err := splitRecords(b, kinds)
	if err != nil {
		return nil, nil, err
	}
	st := new(model.State)
	for i := range kinds {
		k := &kinds[i]
		n := 0
		for len(records) > 0 && records[0].kind == k.name && (n == 0 || k.many) {
			if err := k.take(st, &records[0]); err != nil {
				return nil, nil, fmt.Errorf("record %s: %w", &records[0], err)
			}
			records = records[1:]
			n++
		}
		if n == 0 && !k.many && !k.skip {
			return nil, nil, fmt.Errorf("there is no record %s, or it is not in its place", k.name)
		}
	}
	if len(records) > 0 {
		return nil, nil, fmt.Errorf("a record %s too many, or in another's place", &records[0])
	}
	return st, unknown, nil
}

// take adds what a record says to a state.
func (k *recordKind) take(st *model.State, r *stateRecord) error {
	if r.must == k.skip {
		return errors.New("its flags are not those of its kind")
	}
	needs, err := k.decode(st, r.payload)
	if err == nil && needs != r.version {
		err = fmt.Errorf("it has what came with version %d", needs)
	}
	return err
}
