package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/model"
)

// full returns a state in which every field that is stored has a value other than its zero value, every list two
// elements.
func full() *model.State {
	st := &model.State{}
	n := 0
	fill(reflect.ValueOf(st).Elem(), &n)
	for _, k := range model.FDKinds() {
		if k.New != nil {
			f := model.File{Of: k.New()}
			fill(reflect.ValueOf(&f).Elem(), &n)
			fill(reflect.ValueOf(f.Of).Elem(), &n)
			f.Kind = k.Name
			st.Files = append(st.Files, f)
		}
	}
	return st
}

// stored is full as Commit stores it: one pipe has its content in its record, one has a space.
func stored() *model.State {
	st := full()
	st.Pipes[0].Space, st.Pipes[0].Size = 0, 0
	st.Pipes[1].Data = nil
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

// found reports whether a fault in the records of a state is noticed when they are read back: the decoder refuses them,
// or the comparison names a field.
func found(st *model.State, records ...stateRecord) bool {
	var b []byte
	for i := range records {
		b = records[i].append(b)
	}
	back, unknown, err := decodeState(b)
	return err != nil || len(unknown) > 0 || Difference(st, back) != ""
}

// recordsOf returns the records of a state.
func recordsOf(t testing.TB, st *model.State) []stateRecord {
	t.Helper()
	b, err := encodeState(st)
	if err != nil {
		t.Fatal(err)
	}
	records, unknown, err := splitRecords(b, recordKinds())
	if err != nil || len(unknown) > 0 {
		t.Fatal(unknown, err)
	}
	return records
}

// Everything that the encoder drops or changes in a record of JSON is noticed.
func TestEncoderFaultsAreFound(t *testing.T) {
	st := stored()
	records := recordsOf(t, st)
	if found(st, records...) {
		t.Fatal("a fault is found where there is none")
	}
	planted := 0
	for i := range records {
		k := kindNamed(records[i].kind)
		if k.packed {
			continue
		}
		var doc any
		d := json.NewDecoder(bytes.NewReader(records[i].payload))
		d.UseNumber()
		if err := d.Decode(&doc); err != nil {
			t.Fatal(err)
		}
		for _, fault := range faultsIn(doc, k.name) {
			fault.plant()
			bad := slices.Clone(records)
			bad[i].payload = []byte(encodeLike(k.shape.typ, doc))
			fault.undo()
			planted++
			if !found(st, bad...) {
				t.Errorf("%s: not found", fault.what)
			}
		}
	}
	t.Logf("%d faults planted in the encoder", planted)
	if planted < 400 {
		t.Errorf("only %d faults planted: the state has more fields than that", planted)
	}
}

// Every other byte in a packed record is noticed, every one that is missing, and every one too many.
func TestPackerFaultsAreFound(t *testing.T) {
	st := stored()
	records := recordsOf(t, st)
	for i := range records {
		good := records[i].payload
		if !kindNamed(records[i].kind).packed {
			continue
		}
		try := func(what string, at int, payload []byte) {
			bad := slices.Clone(records)
			bad[i].payload = payload
			if !found(st, bad...) {
				t.Errorf("%s: byte %d %s: not found", records[i].kind, at, what)
			}
		}
		for at := range good {
			for bit := range 8 {
				b := slices.Clone(good)
				b[at] ^= 1 << bit
				try("changed", at, b)
			}
			try("left out", at, slices.Delete(slices.Clone(good), at, at+1))
			try("twice", at, slices.Insert(slices.Clone(good), at, good[at]))
			try("the last", at, good[:at])
		}
		t.Logf("%s: %d bytes", records[i].kind, len(good))
	}
}

// Every record that is left out, there twice, out of order or marked differently is noticed.
func TestRecordFaultsAreFound(t *testing.T) {
	st := stored()
	records := recordsOf(t, st)
	for i, r := range records {
		try := func(what string, bad []stateRecord) {
			if !found(st, bad...) {
				t.Errorf("record %d, %s, %s: not found", i, &r, what)
			}
		}
		change := func(what string, f func(r *stateRecord)) {
			bad := slices.Clone(records)
			f(&bad[i])
			try(what, bad)
		}
		try("left out", slices.Delete(slices.Clone(records), i, i+1))
		try("twice", slices.Insert(slices.Clone(records), i, r))
		try("again at the end", append(slices.Clone(records), r))
		try("the last", slices.Clone(records[:i]))
		if i > 0 {
			bad := slices.Clone(records)
			bad[i-1], bad[i] = bad[i], bad[i-1]
			try("before its time", bad)
		}
		change("of a later version", func(r *stateRecord) { r.version++ })
		change("of another importance", func(r *stateRecord) { r.must = !r.must })
		change("of another kind", func(r *stateRecord) { r.kind = "other" })
		change("empty", func(r *stateRecord) { r.payload = nil })
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
	case reflect.Pointer, reflect.Interface:
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
			if f := v.Type().Field(i); f.Tag.Get("json") != "-" || f.Type == payloadType {
				eachLeaf(v.Field(i), strings.TrimPrefix(path+"."+f.Name, "."), visit)
			}
		}
	case reflect.Interface:
		if !v.IsNil() {
			visit(path, v)
			eachLeaf(v.Elem().Elem(), path, visit)
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
	return "AAAA"
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
