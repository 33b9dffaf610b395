package image

import (
	"encoding/binary"
	"fmt"
	"math/bits"
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

// unpacker unpacks the values of one record. After the first error it reads nothing any more, and everything is zero.
type unpacker struct {
	b       []byte
	at      int // in b
	err     error
	strings []string
	known   map[string]struct{}
	short   map[*shape]*spare // memory for short lists, of which there are many
	last    *spare            // of them, the one that was used last
}

// unpack stores what was packed at v, which points to a zero value.
func unpack(sh *shape, b []byte, v any) error {
	return unpackAll(b, func(u *unpacker) { u.value(sh, reflect.ValueOf(v).UnsafePointer()) })
}

// unpackList undoes packList: take is told of each of the n elements, unless there is no list.
func unpackList[T any](elem *shape, b []byte, begin func(n int), take func(i int, v *T) error) error {
	return unpackAll(b, func(u *unpacker) {
		n := u.number()
		if n == 0 || u.err != nil {
			return
		}
		if n--; n > uint64((len(u.b)-u.at)/elem.least) {
			u.fail("a list of %d in %d bytes", n, len(u.b)-u.at)
			return
		}
		begin(int(n))
		v := new(T)
		for i := range int(n) {
			u.value(elem, unsafe.Pointer(v))
			if u.err != nil {
				return
			}
			if err := take(i, v); err != nil {
				u.fail("%w", err)
				return
			}
			*v = *new(T)
		}
	})
}

// unpackAll unpacks all of b.
func unpackAll(b []byte, f func(u *unpacker)) error {
	u := unpacker{b: b, known: map[string]struct{}{}, short: map[*shape]*spare{}}
	f(&u)
	if u.at < len(b) {
		u.fail("something follows the end")
	}
	return u.err
}

// fail notes the first error, and where it is.
func (u *unpacker) fail(format string, args ...any) {
	if u.err == nil {
		u.err = fmt.Errorf("at byte %d: "+format, append([]any{u.at}, args...)...)
	}
	u.at = len(u.b)
}

func (u *unpacker) value(sh *shape, to unsafe.Pointer) {
	switch sh.kind {
	case reflect.Uint64:
		*(*uint64)(to) = u.number()
	case reflect.Int, reflect.Int64:
		v := u.number()
		putNumber(to, sh.size, uint64(int64(v>>1)^-int64(v&1)))
	case reflect.String:
		u.text((*string)(to))
	case reflect.Struct:
		u.fields(sh, to)
	case reflect.Slice:
		if sh.bytes {
			u.bytes((*[]byte)(to))
			return
		}
		u.list(sh, to)
	case reflect.Array:
		u.elements(sh.elem, to, sh.length)
	case reflect.Pointer:
		u.pointer(sh, to)
	default:
		u.small(sh, to)
	}
}

// small reads a number of less than 64 bits, or a truth value.
func (u *unpacker) small(sh *shape, to unsafe.Pointer) {
	v := u.number()
	switch {
	case sh.kind == reflect.Bool && v > 1:
		u.fail("neither true nor false where one belongs")
		return
	case v>>(8*sh.size) != 0:
		u.fail("%d is no number of %d bits", v, 8*sh.size)
		return
	case sh.signed():
		v = uint64(int64(v>>1) ^ -int64(v&1))
	}
	putNumber(to, sh.size, v)
}

// number reads a varint, which has no more bytes than it needs.
func (u *unpacker) number() uint64 {
	if u.at < len(u.b) && u.b[u.at] < 0x80 {
		u.at++
		return uint64(u.b[u.at-1])
	}
	return u.long()
}

// long reads a varint of more than one byte. Those of up to eight, as addresses have, are read at once.
func (u *unpacker) long() uint64 {
	rest := u.b[u.at:]
	if len(rest) >= 8 {
		v := binary.LittleEndian.Uint64(rest)
		if n := bits.TrailingZeros64(^v&0x8080808080808080) / 8; n < 8 && rest[n] != 0 {
			u.at += n + 1
			v &= 1<<(8*n+7) - 1 // and seven bits of each byte closed up, in pairs
			v = v&0x007f007f007f007f | v&0x7f007f007f007f00>>1
			v = v&0x00003fff00003fff | v&0x3fff00003fff0000>>2
			return v&0x0fffffff | v&0x0fffffff00000000>>4
		}
	}
	v, n := binary.Uvarint(rest)
	if n <= 0 || rest[n-1] == 0 {
		u.fail("no number where one belongs")
		return 0
	}
	u.at += n
	return v
}

// take returns the next n bytes, nil if they are not there.
func (u *unpacker) take(n uint64) []byte {
	if left := len(u.b) - u.at; n > uint64(left) {
		u.fail("%d bytes where %d are left", n, left)
		return nil
	}
	u.at += int(n)
	return u.b[u.at-int(n) : u.at]
}

func (u *unpacker) text(to *string) {
	n := u.number()
	switch {
	case n > uint64(len(u.strings)):
		u.fail("string %d of %d", n, len(u.strings))
	case n > 0:
		*to = u.strings[n-1]
	case u.err == nil:
		*to = u.newText()
	}
}

// newText reads a string that was not there before.
func (u *unpacker) newText() string {
	s := string(u.take(u.number()))
	if _, twice := u.known[s]; twice {
		u.fail("the string %q is there twice", s)
	}
	u.known[s] = struct{}{}
	u.strings = append(u.strings, s)
	return s
}

func (u *unpacker) bytes(to *[]byte) {
	if n := u.number(); n > 0 {
		b := u.take(n - 1)
		*to = append(make([]byte, 0, len(b)), b...)
	}
}

func (u *unpacker) pointer(sh *shape, to unsafe.Pointer) {
	switch u.number() {
	case 0:
	case 1:
		p := reflect.New(sh.elem.typ).UnsafePointer()
		*(*unsafe.Pointer)(to) = p
		u.value(sh.elem, p)
	default:
		u.fail("neither something nor nothing where one belongs")
	}
}

func (u *unpacker) fields(sh *shape, to unsafe.Pointer) {
	there := uint64(0)
	if len(sh.optional) > 0 {
		if there = u.number(); there>>len(sh.optional) != 0 {
			u.fail("an unknown field in %s", sh.name)
		}
	}
	if there == 0 {
		for _, f := range sh.required {
			u.value(f.shape, unsafe.Add(to, f.at))
		}
		return
	}
	for i := range sh.fields {
		f := &sh.fields[i]
		if f.optional {
			is := there & 1
			if there >>= 1; is == 0 {
				continue
			}
		}
		at := unsafe.Add(to, f.at)
		if u.value(f.shape, at); f.optional && isZeroValue(f.shape, at) {
			u.fail("the field %q of %s is there, yet empty", f.name, sh.name)
		}
	}
}

func (u *unpacker) elements(elem *shape, to unsafe.Pointer, n int) {
	for i := 0; i < n && u.err == nil; i++ {
		u.value(elem, unsafe.Add(to, uintptr(i)*elem.size))
	}
}

func (u *unpacker) list(sh *shape, to unsafe.Pointer) {
	n := u.number()
	if n == 0 {
		return
	}
	if left := len(u.b) - u.at; n-1 > uint64(left/sh.elem.least) {
		u.fail("a list of %d in %d bytes", n-1, left)
		return
	}
	n--
	first := u.room(sh, int(n))
	*(*[]struct{})(to) = unsafe.Slice((*struct{})(first), n) // the type of the elements matters for where they lie only
	if sh.elem.kind == reflect.String {
		u.texts(unsafe.Slice((*string)(first), n))
		return
	}
	u.elements(sh.elem, first, int(n))
}

// texts reads strings, most of which were there before.
func (u *unpacker) texts(to []string) {
	for i := range to {
		if u.at < len(u.b) {
			if n := u.b[u.at]; n < 0x80 && n > 0 && int(n) <= len(u.strings) {
				u.at++
				to[i] = u.strings[n-1]
				continue
			}
		}
		u.text(&to[i])
	}
}

// room returns memory for a list of n zero elements.
func (u *unpacker) room(sh *shape, n int) unsafe.Pointer {
	const short, small, fewest, most = 16, 32, 128, 8192
	if n > short || sh.elem.size > small {
		return reflect.MakeSlice(sh.typ, n, n).UnsafePointer()
	}
	left := u.last
	if left == nil || left.of != sh {
		if left = u.short[sh]; left == nil {
			left = &spare{of: sh, next: fewest}
			u.short[sh] = left
		}
		u.last = left
	}
	if left.n < n {
		left.at, left.n = reflect.MakeSlice(sh.typ, left.next, left.next).UnsafePointer(), left.next
		left.next = min(2*left.next, most) // in proportion to what there was
	}
	at := left.at
	if left.n -= n; left.n > 0 {
		left.at = unsafe.Add(at, uintptr(n)*sh.elem.size)
	}
	return at
}

// spare is memory for n elements of a type.
type spare struct {
	of   *shape // of the list
	at   unsafe.Pointer
	n    int
	next int // how many the next piece is for
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
