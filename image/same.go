package image

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

// Difference compares two states field by field and names the first field in which they differ, "" if there is none:
// "Processes[0].Threads[2].Tid". A list that is empty and one that is not there are the same. Fields that are never
// stored do not count.
func Difference(a, b *State) string {
	return strings.TrimPrefix(difference(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()), ".")
}

// fieldsWritten has the indices of the fields that are in an image, by type: a state has thousands of mappings.
var fieldsWritten sync.Map

func written(t reflect.Type) []int {
	if list, ok := fieldsWritten.Load(t); ok {
		return list.([]int)
	}
	var list []int
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") != "-" {
			list = append(list, i)
		}
	}
	fieldsWritten.Store(t, list)
	return list
}

func difference(a, b reflect.Value) string {
	switch a.Kind() {
	case reflect.Struct:
		for _, i := range written(a.Type()) {
			if d := difference(a.Field(i), b.Field(i)); d != "" {
				return "." + a.Type().Field(i).Name + strings.TrimPrefix(d, "=")
			}
		}
		return ""
	case reflect.Pointer:
		switch {
		case a.IsNil() && b.IsNil():
			return ""
		case a.IsNil() || b.IsNil():
			return "="
		}
		return difference(a.Elem(), b.Elem())
	case reflect.Slice, reflect.Array:
		return listDifference(a, b)
	}
	if a.Equal(b) {
		return ""
	}
	return "="
}

// listDifference compares lists. "=" stands for a difference in the value itself.
func listDifference(a, b reflect.Value) string {
	if a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Uint8 {
		if bytes.Equal(a.Bytes(), b.Bytes()) {
			return ""
		}
		return "="
	}
	if a.Len() != b.Len() {
		return "="
	}
	for i := range a.Len() {
		if d := difference(a.Index(i), b.Index(i)); d != "" {
			return fmt.Sprintf("[%d]%s", i, strings.TrimPrefix(d, "="))
		}
	}
	return ""
}
