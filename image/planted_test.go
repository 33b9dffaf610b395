package image

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// full returns a state in which every field that is stored has a value other than its zero value, every list two
// elements.
func full() *State {
	st := &State{}
	n := 0
	fill(reflect.ValueOf(st).Elem(), &n)
	return st
}

func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				fill(v.Field(i), n)
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{byte(*n), byte(*n >> 8), 7})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		v.SetUint(uint64(*n))
	}
}

// Everything that the encoder drops or changes is noticed when the state is read back: the decoder refuses it, or the
// comparison names the field.
func TestEncoderFaultsAreFound(t *testing.T) {
	st := full()
	raw, err := encodeState(st)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if back, err := decodeState(raw); err != nil || Difference(st, back) != "" {
		t.Fatalf("without a fault: %v, difference %q", err, Difference(st, back))
	}
	planted := 0
	for _, fault := range faultsIn(doc, "") {
		fault.plant()
		bad := encodeLike(reflect.TypeFor[State](), doc)
		fault.undo()
		planted++
		if back, err := decodeState([]byte(bad)); err == nil && Difference(st, back) == "" {
			t.Errorf("%s: not found", fault.what)
		}
	}
	t.Logf("%d faults planted in the encoder", planted)
	if planted < 400 {
		t.Errorf("only %d faults planted: the state has more fields than that", planted)
	}
}

// Everything that the decoder drops or changes is named by the comparison.
func TestDecoderFaultsAreFound(t *testing.T) {
	a, b := full(), full()
	planted := 0
	eachLeaf(reflect.ValueOf(b).Elem(), "", func(path string, v reflect.Value) {
		for what, change := range changes(v) {
			old := reflect.New(v.Type()).Elem()
			old.Set(v)
			change()
			planted++
			if d := Difference(a, b); d != path {
				t.Errorf("%s %s: found %q", path, what, d)
			}
			v.Set(old)
		}
	})
	if d := Difference(a, b); d != "" {
		t.Errorf("after all is undone: %s", d)
	}
	t.Logf("%d faults planted in the decoder", planted)
	if planted < 800 {
		t.Errorf("only %d faults planted", planted)
	}
}

// changes are the ways in which a decoder can get a field wrong: it is missing, or it has another value.
func changes(v reflect.Value) map[string]func() {
	drop := func() { v.SetZero() }
	switch v.Kind() {
	case reflect.Slice:
		return map[string]func(){"dropped": drop, "cut short": func() { v.Set(v.Slice(0, v.Len()-1)) }}
	case reflect.Pointer:
		return map[string]func(){"dropped": drop}
	case reflect.String:
		return map[string]func(){"dropped": drop, "changed": func() { v.SetString(v.String() + "x") }}
	case reflect.Bool:
		return map[string]func(){"dropped": drop}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return map[string]func(){"dropped": drop, "changed": func() { v.SetInt(v.Int() ^ 1<<30) }}
	}
	return map[string]func(){"dropped": drop, "changed": func() { v.SetUint(v.Uint() ^ 1) }}
}

// eachLeaf visits every stored field, and every list and record behind a pointer as a whole.
func eachLeaf(v reflect.Value, path string, visit func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" {
				eachLeaf(v.Field(i), strings.TrimPrefix(path+"."+f.Name, "."), visit)
			}
		}
	case reflect.Pointer:
		visit(path, v)
		eachLeaf(v.Elem(), path, visit)
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice {
			visit(path, v)
			if v.Type().Elem().Kind() == reflect.Uint8 {
				return
			}
		}
		for i := range v.Len() {
			eachLeaf(v.Index(i), fmt.Sprintf("%s[%d]", path, i), visit)
		}
	default:
		visit(path, v)
	}
}

// planted is one fault of an encoder.
type planted struct {
	what        string
	plant, undo func()
}

// faultsIn lists a fault for each value in a decoded document: it is left out, and it is another.
func faultsIn(doc any, path string) (out []planted) {
	switch node := doc.(type) {
	case map[string]any:
		for key, value := range node {
			out = append(out,
				planted{path + "." + key + " left out", func() { delete(node, key) }, func() { node[key] = value }},
				planted{
					path + "." + key + " changed", func() { node[key] = another(value) },
					func() { node[key] = value },
				})
			out = append(out, faultsIn(value, path+"."+key)...)
		}
	case []any:
		for i, value := range node {
			out = append(out, planted{
				fmt.Sprintf("%s[%d] changed", path, i), func() { node[i] = another(value) },
				func() { node[i] = value },
			})
			out = append(out, faultsIn(value, fmt.Sprintf("%s[%d]", path, i))...)
		}
	}
	return out
}

// another is a value of the same sort.
func another(value any) any {
	switch v := value.(type) {
	case json.Number:
		if v == "7" {
			return json.Number("8")
		}
		return json.Number("7")
	case string:
		return "AAAA"
	case bool:
		return !v
	case []any:
		return v[:len(v)-1]
	}
	return nil
}

// encodeLike writes a document with the keys in the order of a type, as the encoder does.
func encodeLike(t reflect.Type, doc any) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch node := doc.(type) {
	case map[string]any:
		var parts []string
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if value, ok := node[name]; ok && name != "-" {
				parts = append(parts, fmt.Sprintf("%q:%s", name, encodeLike(t.Field(i).Type, value)))
			}
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		parts := make([]string, len(node))
		for i := range node {
			parts[i] = encodeLike(t.Elem(), node[i])
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	b, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return string(b)
}
