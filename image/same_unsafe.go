package image

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unsafe"

	"github.com/bpfckpt/bpfckpt/model"
)

// Difference compares two states field by field and names the first field in which they differ, "" if there is none:
// "Processes[0].Threads[2].Tid". A list that is empty and one that is not there are the same. Fields that are never
// stored do not count.
func Difference(a, b *model.State) string {
	return strings.TrimPrefix(compareStates()(unsafe.Pointer(a), unsafe.Pointer(b)), ".")
}

// compareStates is made once: a state has thousands of mappings, and package reflect takes ten times as long for each.
var compareStates = sync.OnceValue(func() comparer { return comparerOf(reflect.TypeFor[model.State]()) })

// comparer compares two values of one type and says where they differ: "" nowhere, "=" in the value itself.
type comparer func(a, b unsafe.Pointer) string

// comparerOf makes the comparer of a type, which must not contain itself.
func comparerOf(t reflect.Type) comparer {
	switch t.Kind() {
	case reflect.Struct:
		return structComparer(t)
	case reflect.Pointer:
		elem := comparerOf(t.Elem())
		return func(a, b unsafe.Pointer) string {
			p, q := *(*unsafe.Pointer)(a), *(*unsafe.Pointer)(b)
			if p == nil || q == nil {
				return differs(p != q)
			}
			return elem(p, q)
		}
	case reflect.Interface:
		return payloadComparer()
	case reflect.Slice:
		return sliceComparer(t)
	case reflect.Array:
		elem, size, n := comparerOf(t.Elem()), t.Elem().Size(), t.Len()
		return func(a, b unsafe.Pointer) string { return compareElements(elem, size, n, a, b) }
	case reflect.String:
		return func(a, b unsafe.Pointer) string { return differs(*(*string)(a) != *(*string)(b)) }
	case reflect.Bool, reflect.Int8, reflect.Uint8:
		return func(a, b unsafe.Pointer) string { return differs(*(*uint8)(a) != *(*uint8)(b)) }
	case reflect.Int16, reflect.Uint16:
		return func(a, b unsafe.Pointer) string { return differs(*(*uint16)(a) != *(*uint16)(b)) }
	case reflect.Int32, reflect.Uint32:
		return func(a, b unsafe.Pointer) string { return differs(*(*uint32)(a) != *(*uint32)(b)) }
	case reflect.Int, reflect.Uint, reflect.Int64, reflect.Uint64:
		return func(a, b unsafe.Pointer) string { return differs(*(*uint64)(a) != *(*uint64)(b)) }
	}
	panic(fmt.Sprintf("image: a state has a %s, which cannot be compared", t))
}

func differs(they bool) string {
	if they {
		return "="
	}
	return ""
}

func structComparer(t reflect.Type) comparer {
	type part struct {
		name    string
		at      uintptr
		compare comparer
	}
	var parts []part
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("json") != "-" || f.Type == payloadType {
			parts = append(parts, part{f.Name, f.Offset, comparerOf(f.Type)})
		}
	}
	return func(a, b unsafe.Pointer) string {
		for i := range parts {
			p := &parts[i]
			if d := p.compare(unsafe.Add(a, p.at), unsafe.Add(b, p.at)); d != "" {
				return "." + p.name + strings.TrimPrefix(d, "=")
			}
		}
		return ""
	}
}

var payloadType = reflect.TypeFor[model.Payload]()

// payloadComparer compares what only one kind of descriptors has.
func payloadComparer() comparer {
	known := map[reflect.Type]comparer{}
	for _, k := range model.FDKinds() {
		if k.New != nil {
			t := reflect.TypeOf(k.New())
			known[t] = comparerOf(t)
		}
	}
	return func(a, b unsafe.Pointer) string {
		p, q := *(*model.Payload)(a), *(*model.Payload)(b)
		if p == nil || q == nil || reflect.TypeOf(p) != reflect.TypeOf(q) {
			return differs(p != q)
		}
		v, w := reflect.ValueOf(p).UnsafePointer(), reflect.ValueOf(q).UnsafePointer()
		return known[reflect.TypeOf(p)](unsafe.Pointer(&v), unsafe.Pointer(&w))
	}
}

func sliceComparer(t reflect.Type) comparer {
	if t.Elem().Kind() == reflect.Uint8 {
		return func(a, b unsafe.Pointer) string { return differs(!bytes.Equal(*(*[]byte)(a), *(*[]byte)(b))) }
	}
	elem, size := comparerOf(t.Elem()), t.Elem().Size()
	return func(a, b unsafe.Pointer) string {
		// The type of the elements only matters for what unsafe.SliceData points to.
		p, q := *(*[]struct{})(a), *(*[]struct{})(b)
		if len(p) != len(q) {
			return "="
		}
		return compareElements(elem, size, len(p), unsafe.Pointer(unsafe.SliceData(p)), unsafe.Pointer(unsafe.SliceData(q)))
	}
}

func compareElements(elem comparer, size uintptr, n int, a, b unsafe.Pointer) string {
	for i := range n {
		if d := elem(unsafe.Add(a, uintptr(i)*size), unsafe.Add(b, uintptr(i)*size)); d != "" {
			return fmt.Sprintf("[%d]%s", i, strings.TrimPrefix(d, "="))
		}
	}
	return ""
}
