package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// strictJSON decodes what encoding/json made of a value of v's type, and only that: every field that is not marked
// omitempty or omitzero is there, in the order of the type, once, and there is no other, nor white space. encoding/json
// alone takes missing, repeated and differently capitalised fields; and a list of empty objects, three bytes each,
// would have it allocate a hundred times as much.
func strictJSON(b []byte, v any) error {
	return strictJSONAs(b, v, newShape(reflect.TypeOf(v).Elem()))
}

// strictJSONAs is strictJSON for a type whose shape is at hand.
func strictJSONAs(b []byte, v any, sh *shape) error {
	w := walker{rest: b}
	if err := w.value(sh); err != nil {
		return fmt.Errorf("at byte %d: %w", len(b)-len(w.rest), err)
	}
	if len(w.rest) > 0 {
		return fmt.Errorf("at byte %d: something follows the end", len(b)-len(w.rest))
	}
	return json.Unmarshal(b, v)
}

// shape is what JSON of a type looks like.
type shape struct {
	name   string
	kind   reflect.Kind // Struct, Slice, Array, Pointer or String; anything else is a number or a boolean
	elem   *shape
	length int // of an array, -1 for a slice
	fields []shapeField
}

// shapeField is a field of a struct as encoding/json writes it.
type shapeField struct {
	key      string // with quotes and colon
	name     string
	shape    *shape
	optional bool
}

// newShape returns the shape of a type, which must not contain itself.
func newShape(t reflect.Type) *shape {
	sh := &shape{name: t.Name(), kind: t.Kind(), length: -1}
	switch t.Kind() {
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			sh.kind = reflect.String // base64
			sh.length = 0            // or null
			return sh
		}
		sh.elem = newShape(t.Elem())
	case reflect.Array:
		sh.length = t.Len()
		sh.elem = newShape(t.Elem())
	case reflect.Pointer:
		sh.elem = newShape(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" {
				continue // never stored
			}
			if name == "" {
				name = f.Name
			}
			sh.fields = append(sh.fields, shapeField{`"` + name + `":`, name, newShape(f.Type), strings.Contains(opts, "omit")})
		}
	}
	return sh
}

// walker walks over JSON along a shape.
type walker struct{ rest []byte }

// value walks over one value.
func (w *walker) value(sh *shape) error {
	switch sh.kind {
	case reflect.Struct:
		return w.object(sh)
	case reflect.Array:
		return w.list(sh)
	case reflect.Slice:
		if w.take("null") {
			return nil
		}
		return w.list(sh)
	case reflect.Pointer:
		if w.take("null") {
			return nil
		}
		return w.value(sh.elem)
	case reflect.String:
		if sh.length == 0 && w.take("null") {
			return nil
		}
		return w.text()
	}
	return w.scalar()
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
func (w *walker) object(sh *shape) error {
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
		if err := w.value(f.shape); err != nil {
			return err
		}
	}
	if !w.take("}") {
		return fmt.Errorf("an unknown field in %s", sh.name)
	}
	return nil
}

// list walks over a list.
func (w *walker) list(sh *shape) error {
	if !w.take("[") {
		return errors.New("no list where one belongs")
	}
	count := 0
	for !w.take("]") {
		if count > 0 && !w.take(",") {
			return errors.New("a list without a comma or an end")
		}
		if err := w.value(sh.elem); err != nil {
			return err
		}
		count++
	}
	if sh.length >= 0 && count != sh.length {
		return fmt.Errorf("a list of %d in the place of one of %d", count, sh.length)
	}
	return nil
}

// text walks over a string; json.Unmarshal looks at what is inside.
func (w *walker) text() error {
	if !w.take(`"`) {
		return errors.New("no string where one belongs")
	}
	for {
		i := bytes.IndexByte(w.rest, '"')
		if i < 0 {
			return errors.New("a string without an end")
		}
		escaped := false
		for j := i - 1; j >= 0 && w.rest[j] == '\\'; j-- {
			escaped = !escaped
		}
		w.rest = w.rest[i+1:]
		if !escaped {
			return nil
		}
	}
}

// scalar walks over a number or a boolean; json.Unmarshal looks at what it is.
func (w *walker) scalar() error {
	i := bytes.IndexAny(w.rest[:min(len(w.rest), 32)], ",]}")
	if i <= 0 {
		return errors.New("no number or boolean where one belongs")
	}
	for _, c := range w.rest[:i] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '-' {
			return fmt.Errorf("%q is no number or boolean", w.rest[:i])
		}
	}
	if string(w.rest[:i]) == "null" {
		return errors.New("null in the place of a number or boolean")
	}
	w.rest = w.rest[i:]
	return nil
}
