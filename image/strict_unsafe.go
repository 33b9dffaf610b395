package image

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// strictJSON decodes what encoding/json made of a value of v's type, and only that: every field that is not marked
// omitempty or omitzero is there, in the order of the type, once, and there is no other, nor white space. encoding/json
// alone takes missing, repeated and differently capitalised fields; a list of empty objects, three bytes each, would
// have it allocate a hundred times as much; and it takes five times as long, which counts for thousands of mappings.
func strictJSON(b []byte, v any) error {
	return strictJSONAs(b, v, newShape(reflect.TypeOf(v).Elem()))
}

// strictJSONAs is strictJSON for a type whose shape is at hand. v points to a zero value.
func strictJSONAs(b []byte, v any, sh *shape) error {
	w := walker{rest: b, known: map[string]string{}}
	if err := w.value(sh, reflect.ValueOf(v).UnsafePointer()); err != nil {
		return fmt.Errorf("at byte %d: %w", len(b)-len(w.rest), err)
	}
	if len(w.rest) > 0 {
		return fmt.Errorf("at byte %d: something follows the end", len(b)-len(w.rest))
	}
	return nil
}

// shape is what JSON of a type looks like, and where its parts are in memory.
type shape struct {
	name   string
	kind   reflect.Kind
	typ    reflect.Type
	size   uintptr
	bytes  bool // a []byte, in base64
	elem   *shape
	length int // of an array, -1 for a slice
	fields []shapeField

	optional []int         // indices of the optional fields
	required []*shapeField // the others
	least    int           // bytes that a value takes at least when packed
	newest   uint32        // the version that the newest field in it came with
}

// shapeField is a field of a struct as encoding/json writes it.
type shapeField struct {
	key      string // with quotes and colon
	name     string
	at       uintptr
	shape    *shape
	optional bool
	since    uint32 // the version of its record's kind that it came with
}

// newShape returns the shape of a type, which must not contain itself, nor a type that encodes itself.
func newShape(t reflect.Type) *shape {
	sh := &shape{name: t.Name(), kind: t.Kind(), typ: t, size: t.Size(), length: -1, least: 1, newest: 1}
	switch t.Kind() {
	case reflect.Slice:
		if sh.bytes = t.Elem().Kind() == reflect.Uint8; !sh.bytes {
			sh.elem = newShape(t.Elem())
		}
	case reflect.Array:
		sh.length = t.Len()
		sh.elem = newShape(t.Elem())
		sh.least = sh.length * sh.elem.least
	case reflect.Pointer:
		sh.elem = newShape(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).Anonymous {
				sh.embed(newShape(t.Field(i).Type), t.Field(i).Offset)
			} else if f, ok := newShapeField(t.Field(i)); ok {
				sh.add(f)
			}
		}
		sh.count()
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
	default:
		panic(fmt.Sprintf("image: a state has a %s, which has no place in it", t))
	}
	if sh.elem != nil {
		sh.newest = sh.elem.newest
	}
	return sh
}

// embed adds the fields of an embedded struct, of which this one is the stored form.
func (sh *shape) embed(inner *shape, at uintptr) {
	sh.name = inner.name
	for _, f := range inner.fields {
		f.at += at
		sh.fields = append(sh.fields, f)
	}
}

// add adds a field, or puts it in the place of an embedded one of its name.
func (sh *shape) add(f shapeField) {
	if i := slices.IndexFunc(sh.fields, func(o shapeField) bool { return o.name == f.name }); i >= 0 {
		sh.fields[i] = f
		return
	}
	sh.fields = append(sh.fields, f)
}

// newShapeField returns the shape of a field, and false for one that is never stored.
func newShapeField(f reflect.StructField) (shapeField, bool) {
	name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return shapeField{}, false
	}
	if name == "" {
		name = f.Name
	}
	since, err := strconv.ParseUint(cmp.Or(f.Tag.Get("since"), "1"), 10, 16)
	if err != nil || since == 0 {
		panic(fmt.Sprintf("image: the field %s has come with no version", f.Name))
	}
	return shapeField{
		`"` + name + `":`, name, f.Offset, newShape(f.Type), strings.Contains(opts, "omit"), uint32(since),
	}, true
}

// count sums up the fields of a struct. New ones are optional and stand behind those that older versions have: packed,
// a field is known by its place alone.
func (sh *shape) count() {
	sh.optional, sh.required, sh.least, sh.newest = nil, nil, 0, 1
	last := uint32(1)
	for i := range sh.fields {
		f := &sh.fields[i]
		sh.newest = max(sh.newest, f.since, f.shape.newest)
		if !f.optional {
			sh.required = append(sh.required, f)
			sh.least += f.shape.least
		} else {
			sh.optional = append(sh.optional, i)
		}
		if f.since < last || f.since > 1 && !f.optional {
			panic(fmt.Sprintf("image: the field %q of %s is not optional, or before one that came later", f.name, sh.name))
		}
		last = f.since
	}
	if len(sh.optional) > 0 {
		sh.least++
	}
}

// signed reports whether the shape is that of a number with a sign.
func (sh *shape) signed() bool { return sh.kind >= reflect.Int && sh.kind <= reflect.Int64 }

// walker walks over JSON along a shape and stores what it finds.
type walker struct {
	rest  []byte
	known map[string]string // short strings, most of which come again and again
}

// value walks over one value and stores it at to, where a zero value is.
func (w *walker) value(sh *shape, to unsafe.Pointer) error {
	switch sh.kind {
	case reflect.Struct:
		return w.object(sh, to)
	case reflect.Array:
		return w.array(sh, to)
	case reflect.Slice:
		switch {
		case w.take("null"):
			return nil
		case sh.bytes:
			return w.base64((*[]byte)(to))
		}
		return w.slice(sh, to)
	case reflect.Pointer:
		if w.take("null") {
			return nil
		}
		p := reflect.New(sh.elem.typ).UnsafePointer()
		*(*unsafe.Pointer)(to) = p
		return w.value(sh.elem, p)
	case reflect.String:
		return w.text((*string)(to))
	case reflect.Bool:
		return w.boolean((*bool)(to))
	}
	return w.number(sh, to)
}

// take skips lit if it is next.
func (w *walker) take(lit string) bool {
	if len(w.rest) < len(lit) || string(w.rest[:len(lit)]) != lit {
		return false
	}
	w.rest = w.rest[len(lit):]
	return true
}

// object walks over an object.
func (w *walker) object(sh *shape, to unsafe.Pointer) error {
	if !w.take("{") {
		return fmt.Errorf("no object where %s has one", sh.name)
	}
	first := true
	for i := range sh.fields {
		f := &sh.fields[i]
		before := w.rest
		if !first && !w.take(",") || !w.take(f.key) {
			w.rest = before
			if f.optional {
				continue
			}
			return fmt.Errorf("the field %q of %s is missing, or another is in its place", f.name, sh.name)
		}
		first = false
		if err := w.value(f.shape, unsafe.Add(to, f.at)); err != nil {
			return err
		}
	}
	if !w.take("}") {
		return fmt.Errorf("an unknown field in %s", sh.name)
	}
	return nil
}

// elements walks over a list and calls each before every element, for the place where it is stored.
func (w *walker) elements(sh *shape, place func(i int) unsafe.Pointer) (count int, err error) {
	if !w.take("[") {
		return 0, errors.New("no list where one belongs")
	}
	for !w.take("]") {
		if count > 0 && !w.take(",") {
			return 0, errors.New("a list without a comma or an end")
		}
		to := place(count)
		if to == nil {
			return 0, fmt.Errorf("a list of more than %d", count)
		}
		if err := w.value(sh.elem, to); err != nil {
			return 0, err
		}
		count++
	}
	return count, nil
}

func (w *walker) array(sh *shape, to unsafe.Pointer) error {
	count, err := w.elements(sh, func(i int) unsafe.Pointer {
		if i == sh.length {
			return nil
		}
		return unsafe.Add(to, uintptr(i)*sh.elem.size)
	})
	if err == nil && count != sh.length {
		return fmt.Errorf("a list of %d in the place of one of %d", count, sh.length)
	}
	return err
}

func (w *walker) slice(sh *shape, to unsafe.Pointer) error {
	list := reflect.NewAt(sh.typ, to).Elem()
	list.Set(reflect.MakeSlice(sh.typ, 0, 0)) // one that is empty is there
	few := 1
	if sh.elem.size <= unsafe.Sizeof("") {
		few = 8 // flags of a mapping
	}
	_, err := w.elements(sh, func(i int) unsafe.Pointer {
		if i == list.Cap() {
			list.Grow(few)
		}
		list.SetLen(i + 1)
		return unsafe.Add(list.UnsafePointer(), uintptr(i)*sh.elem.size)
	})
	return err
}

// quoted walks over a string and returns what is between its quotes, and whether that stands for itself.
func (w *walker) quoted() (inside []byte, plain bool, err error) {
	if !w.take(`"`) {
		return nil, false, errors.New("no string where one belongs")
	}
	plain = true
	for i := 0; i < len(w.rest); i++ {
		switch c := w.rest[i]; {
		case c == '"':
			inside, w.rest = w.rest[:i], w.rest[i+1:]
			return inside, plain, nil
		case c == '\\':
			plain = false
			i++
		case c < ' ' || c >= utf8.RuneSelf:
			plain = false
		}
	}
	return nil, false, errors.New("a string without an end")
}

const shortString = 64

func (w *walker) text(to *string) error {
	inside, plain, err := w.quoted()
	switch {
	case err != nil:
		return err
	case !plain:
		return json.Unmarshal(slices.Concat([]byte(`"`), inside, []byte(`"`)), to)
	case len(inside) > shortString:
		*to = string(inside)
		return nil
	}
	s, ok := w.known[string(inside)]
	if !ok {
		s = string(inside)
		w.known[s] = s
	}
	*to = s
	return nil
}

func (w *walker) base64(to *[]byte) error {
	inside, _, err := w.quoted()
	if err != nil {
		return err
	}
	*to = make([]byte, base64.StdEncoding.DecodedLen(len(inside)))
	n, err := base64.StdEncoding.Decode(*to, inside)
	*to = (*to)[:n]
	return err
}

func (w *walker) boolean(to *bool) error {
	switch {
	case w.take("true"):
		*to = true
	case !w.take("false"):
		return errors.New("neither true nor false where one belongs")
	}
	return nil
}

// number walks over an integer.
func (w *walker) number(sh *shape, to unsafe.Pointer) error {
	n := 0
	for n < len(w.rest) && (w.rest[n] >= '0' && w.rest[n] <= '9' || w.rest[n] == '-' && n == 0) {
		n++
	}
	digits := w.rest[:n]
	if text := bytes.TrimPrefix(digits, []byte("-")); len(text) == 0 || text[0] == '0' && len(digits) > 1 {
		return errors.New("no number where one belongs")
	}
	w.rest = w.rest[n:]
	bits := int(sh.size) * 8
	if sh.kind >= reflect.Uint { // then come the other unsigned ones
		v, err := strconv.ParseUint(unsafe.String(&digits[0], n), 10, bits)
		if err != nil {
			return fmt.Errorf("%q is no number of %d bits without a sign", digits, bits)
		}
		putNumber(to, sh.size, v)
		return nil
	}
	v, err := strconv.ParseInt(unsafe.String(&digits[0], n), 10, bits)
	if err != nil {
		return fmt.Errorf("%q is no number of %d bits", digits, bits)
	}
	putNumber(to, sh.size, uint64(v))
	return nil
}

func putNumber(to unsafe.Pointer, size uintptr, v uint64) {
	switch size {
	case 1:
		*(*uint8)(to) = uint8(v)
	case 2:
		*(*uint16)(to) = uint16(v)
	case 4:
		*(*uint32)(to) = uint32(v)
	case 8:
		*(*uint64)(to) = v
	}
}
