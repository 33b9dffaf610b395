package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"unsafe"
)

// What comes in thousands is packed along its shape: fields in the order of the type, numbers as varints, signed ones
// zigzag, without their names. A struct that has optional fields begins with a varint in which bit N tells whether the
// Nth of them follows. A string is a varint: N > 0 is the Nth string of the record, 0 a new one, whose length and bytes
// follow. A list is a varint, 0 for none, else its length and one, and its elements; bytes likewise. A pointer is 0, or
// 1 and what it leads to; a truth value 0 or 1.
//
// A value has one packed form only: whatever can be unpacked comes out the same when packed again.

// packer packs the values of one record.
type packer struct {
	out     []byte
	strings map[string]uint64 // number of each
}

// pack returns the packed form of what v points to.
func pack(sh *shape, v any) []byte {
	k := packer{strings: map[string]uint64{}}
	k.value(sh, reflect.ValueOf(v).UnsafePointer())
	return k.out
}

// packList returns the packed form of a list whose elements are made one by one, by set, in a value that it is given.
func packList[T any](elem *shape, none bool, n int, set func(i int, v *T)) []byte {
	k := packer{strings: map[string]uint64{}}
	if none {
		k.number(0)
		return k.out
	}
	k.number(uint64(n) + 1)
	var v T
	for i := range n {
		set(i, &v)
		k.value(elem, unsafe.Pointer(&v))
	}
	return k.out
}

func (k *packer) value(sh *shape, from unsafe.Pointer) {
	switch sh.kind {
	case reflect.Struct:
		k.fields(sh, from)
	case reflect.Array:
		k.elements(sh.elem, from, sh.length)
	case reflect.Slice:
		list := *(*[]struct{})(from) // the type of the elements matters for where they lie only
		if list == nil {
			k.number(0)
			return
		}
		k.number(uint64(len(list)) + 1)
		if sh.bytes {
			k.out = append(k.out, *(*[]byte)(from)...)
			return
		}
		k.elements(sh.elem, unsafe.Pointer(unsafe.SliceData(list)), len(list))
	case reflect.Pointer:
		to := *(*unsafe.Pointer)(from)
		if to == nil {
			k.number(0)
			return
		}
		k.number(1)
		k.value(sh.elem, to)
	case reflect.String:
		k.text(*(*string)(from))
	default:
		v := getNumber(from, sh.size)
		if sh.signed() {
			v = zigzag(v, sh.size)
		}
		k.number(v)
	}
}

func (k *packer) number(v uint64) { k.out = binary.AppendUvarint(k.out, v) }

func (k *packer) text(s string) {
	n, ok := k.strings[s]
	k.number(n)
	if !ok {
		k.strings[s] = uint64(len(k.strings)) + 1
		k.number(uint64(len(s)))
		k.out = append(k.out, s...)
	}
}

func (k *packer) fields(sh *shape, from unsafe.Pointer) {
	there := uint64(0)
	for i, n := range sh.optional {
		if f := &sh.fields[n]; !isZeroValue(f.shape, unsafe.Add(from, f.at)) {
			there |= 1 << i
		}
	}
	if len(sh.optional) > 0 {
		k.number(there)
	}
	bit := 0
	for i := range sh.fields {
		f := &sh.fields[i]
		if f.optional {
			bit++
			if there>>(bit-1)&1 == 0 {
				continue
			}
		}
		k.value(f.shape, unsafe.Add(from, f.at))
	}
}

func (k *packer) elements(elem *shape, from unsafe.Pointer, n int) {
	for i := range n {
		k.value(elem, unsafe.Add(from, uintptr(i)*elem.size))
	}
}

// unpacker unpacks the values of one record.
type unpacker struct {
	rest    []byte
	strings []string
	known   map[string]struct{}
	short   map[*shape]*spare // memory for short lists, of which there are many
}

// unpack stores what was packed at v, which points to a zero value.
func unpack(sh *shape, b []byte, v any) error {
	return unpackAll(b, func(u *unpacker) error { return u.value(sh, reflect.ValueOf(v).UnsafePointer()) })
}

// unpackList undoes packList: take is told of each of the n elements, unless there is no list.
func unpackList[T any](elem *shape, b []byte, begin func(n int), take func(i int, v *T) error) error {
	return unpackAll(b, func(u *unpacker) error {
		n, err := u.number()
		if err != nil || n == 0 {
			return err
		}
		if n--; n > uint64(len(u.rest)/elem.least) {
			return fmt.Errorf("a list of %d in %d bytes", n, len(u.rest))
		}
		begin(int(n))
		v := new(T)
		for i := range int(n) {
			if err := u.value(elem, unsafe.Pointer(v)); err != nil {
				return err
			}
			if err := take(i, v); err != nil {
				return err
			}
			*v = *new(T)
		}
		return nil
	})
}

// unpackAll unpacks all of b.
func unpackAll(b []byte, f func(u *unpacker) error) error {
	u := unpacker{rest: b, known: map[string]struct{}{}, short: map[*shape]*spare{}}
	if err := f(&u); err != nil {
		return fmt.Errorf("at byte %d: %w", len(b)-len(u.rest), err)
	}
	if len(u.rest) > 0 {
		return fmt.Errorf("at byte %d: something follows the end", len(b)-len(u.rest))
	}
	return nil
}

func (u *unpacker) value(sh *shape, to unsafe.Pointer) error {
	switch sh.kind {
	case reflect.Struct:
		return u.fields(sh, to)
	case reflect.Array:
		return u.elements(sh.elem, to, sh.length)
	case reflect.Slice:
		if sh.bytes {
			return u.bytes((*[]byte)(to))
		}
		return u.list(sh, to)
	case reflect.Pointer:
		return u.pointer(sh, to)
	case reflect.String:
		return u.text((*string)(to))
	}
	v, err := u.number()
	if err != nil {
		return err
	}
	switch {
	case sh.kind == reflect.Bool:
		if v > 1 {
			return errors.New("neither true nor false where one belongs")
		}
	case sh.size < 8 && v>>(8*sh.size) != 0:
		return fmt.Errorf("%d is no number of %d bits", v, 8*sh.size)
	case sh.signed():
		v = uint64(int64(v>>1) ^ -int64(v&1))
	}
	putNumber(to, sh.size, v)
	return nil
}

// number reads a varint, which has no more bytes than it needs.
func (u *unpacker) number() (uint64, error) {
	if len(u.rest) > 0 && u.rest[0] < 0x80 {
		v := u.rest[0]
		u.rest = u.rest[1:]
		return uint64(v), nil
	}
	v, n := binary.Uvarint(u.rest)
	if n <= 0 || u.rest[n-1] == 0 {
		return 0, errors.New("no number where one belongs")
	}
	u.rest = u.rest[n:]
	return v, nil
}

// take returns the next n bytes.
func (u *unpacker) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.rest)) {
		return nil, fmt.Errorf("%d bytes where %d are left", n, len(u.rest))
	}
	b := u.rest[:n]
	u.rest = u.rest[n:]
	return b, nil
}

func (u *unpacker) text(to *string) error {
	n, err := u.number()
	switch {
	case err != nil:
		return err
	case n > uint64(len(u.strings)):
		return fmt.Errorf("string %d of %d", n, len(u.strings))
	case n > 0:
		*to = u.strings[n-1]
		return nil
	}
	if n, err = u.number(); err != nil {
		return err
	}
	b, err := u.take(n)
	if err != nil {
		return err
	}
	s := string(b)
	if _, twice := u.known[s]; twice {
		return fmt.Errorf("the string %q is there twice", s)
	}
	u.known[s] = struct{}{}
	u.strings = append(u.strings, s)
	*to = s
	return nil
}

func (u *unpacker) bytes(to *[]byte) error {
	n, err := u.number()
	if err != nil || n == 0 {
		return err
	}
	b, err := u.take(n - 1)
	*to = append(make([]byte, 0, len(b)), b...)
	return err
}

func (u *unpacker) pointer(sh *shape, to unsafe.Pointer) error {
	n, err := u.number()
	if err != nil || n == 0 {
		return err
	}
	if n > 1 {
		return errors.New("neither something nor nothing where one belongs")
	}
	p := reflect.New(sh.elem.typ).UnsafePointer()
	*(*unsafe.Pointer)(to) = p
	return u.value(sh.elem, p)
}

func (u *unpacker) fields(sh *shape, to unsafe.Pointer) error {
	there := uint64(0)
	if len(sh.optional) > 0 {
		var err error
		if there, err = u.number(); err != nil {
			return err
		}
		if there>>len(sh.optional) != 0 {
			return fmt.Errorf("an unknown field in %s", sh.name)
		}
	}
	bit := 0
	for i := range sh.fields {
		f := &sh.fields[i]
		if f.optional {
			bit++
			if there>>(bit-1)&1 == 0 {
				continue
			}
		}
		at := unsafe.Add(to, f.at)
		if err := u.value(f.shape, at); err != nil {
			return err
		}
		if f.optional && isZeroValue(f.shape, at) {
			return fmt.Errorf("the field %q of %s is there, yet empty", f.name, sh.name)
		}
	}
	return nil
}

func (u *unpacker) elements(elem *shape, to unsafe.Pointer, n int) error {
	for i := range n {
		if err := u.value(elem, unsafe.Add(to, uintptr(i)*elem.size)); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) list(sh *shape, to unsafe.Pointer) error {
	n, err := u.number()
	if err != nil || n == 0 {
		return err
	}
	if n--; n > uint64(len(u.rest)/sh.elem.least) {
		return fmt.Errorf("a list of %d in %d bytes", n, len(u.rest))
	}
	first := u.room(sh, int(n))
	*(*[]struct{})(to) = unsafe.Slice((*struct{})(first), n) // the type of the elements matters for where they lie only
	return u.elements(sh.elem, first, int(n))
}

// room returns memory for a list of n zero elements.
func (u *unpacker) room(sh *shape, n int) unsafe.Pointer {
	const short, small, many = 16, 32, 128
	if n > short || sh.elem.size > small {
		return reflect.MakeSlice(sh.typ, n, n).UnsafePointer()
	}
	left, ok := u.short[sh]
	if !ok {
		left = new(spare)
		u.short[sh] = left
	}
	if left.n < n {
		left.at, left.n = reflect.MakeSlice(sh.typ, many, many).UnsafePointer(), many
	}
	at := left.at
	if left.n -= n; left.n > 0 {
		left.at = unsafe.Add(at, uintptr(n)*sh.elem.size)
	}
	return at
}

// spare is memory for n elements of a type.
type spare struct {
	at unsafe.Pointer
	n  int
}

// isZeroValue reports whether encoding/json leaves an optional field out that has this value.
func isZeroValue(sh *shape, at unsafe.Pointer) bool {
	switch sh.kind {
	case reflect.Struct:
		for i := range sh.fields {
			if f := &sh.fields[i]; !isZeroValue(f.shape, unsafe.Add(at, f.at)) {
				return false
			}
		}
		return true
	case reflect.Array:
		for i := range sh.length {
			if !isZeroValue(sh.elem, unsafe.Add(at, uintptr(i)*sh.elem.size)) {
				return false
			}
		}
		return true
	case reflect.Slice:
		return len(*(*[]struct{})(at)) == 0
	case reflect.Pointer:
		return *(*unsafe.Pointer)(at) == nil
	case reflect.String:
		return *(*string)(at) == ""
	}
	return getNumber(at, sh.size) == 0
}

// zigzag makes a small number without a sign of a small signed one of size bytes.
func zigzag(v uint64, size uintptr) uint64 {
	s := int64(v<<(64-8*size)) >> (64 - 8*size)
	return uint64(s<<1) ^ uint64(s>>63)
}

func getNumber(from unsafe.Pointer, size uintptr) uint64 {
	switch size {
	case 1:
		return uint64(*(*uint8)(from))
	case 2:
		return uint64(*(*uint16)(from))
	case 4:
		return uint64(*(*uint32)(from))
	}
	return *(*uint64)(from)
}

// needs returns the version of its record's kind that a reader must know to miss nothing of a value: that of the newest
// field it has.
func (sh *shape) needs(at unsafe.Pointer) uint32 {
	v := uint32(1)
	if sh.newest == 1 {
		return v
	}
	switch sh.kind {
	case reflect.Struct:
		for i := range sh.fields {
			f := &sh.fields[i]
			to := unsafe.Add(at, f.at)
			if f.since > v && !isZeroValue(f.shape, to) {
				v = f.since
			}
			v = max(v, f.shape.needs(to))
		}
	case reflect.Pointer:
		if to := *(*unsafe.Pointer)(at); to != nil {
			v = sh.elem.needs(to)
		}
	default: // a list: nothing else has newer parts
		n := sh.length
		if sh.kind == reflect.Slice {
			list := *(*[]struct{})(at)
			n, at = len(list), unsafe.Pointer(unsafe.SliceData(list))
		}
		for i := range n {
			v = max(v, sh.elem.needs(unsafe.Add(at, uintptr(i)*sh.elem.size)))
		}
	}
	return v
}

// needed is what a value needs that v points to.
func (sh *shape) needed(v any) uint32 { return sh.needs(reflect.ValueOf(v).UnsafePointer()) }
