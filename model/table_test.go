package model

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What is known of flags and kinds stands once. These tests, and those named TestTable in other packages, take each
// entry and hold whoever reads it against it: scripts/one-table removes the entries one by one, and every time a test
// must break.

// Every field of a description either belongs to all kinds, or to those that say so.
func TestTableOfFields(t *testing.T) {
	common := []string{
		"ID", "Kind", "Flags", "Pos", "Mode", "Dev", "Ino", "Rdev", "Path", "Opened", "Owner", "Std", "Locks",
	}
	typ := reflect.TypeFor[File]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		if typ.Field(i).Tag.Get("json") == "-" || slices.Contains(common, name) {
			continue
		}
		if !slices.ContainsFunc(FDKinds(), func(k *FDKind) bool { return slices.Contains(k.Fields, name) }) {
			t.Errorf("File.%s belongs neither to all kinds nor to some: what only one kind has is its payload", name)
		}
	}
	for _, k := range FDKinds() {
		for _, name := range k.Fields {
			if _, ok := typ.FieldByName(name); !ok || slices.Contains(common, name) {
				t.Errorf("%s has the field %s, which File has not, or for all", k.Name, name)
			}
		}
	}
}

// A description is valid with the fields of its kind and with no other.
func TestTableOfKindsIsValidated(t *testing.T) {
	typ := reflect.TypeFor[File]()
	for _, k := range FDKinds() {
		for i := range typ.NumField() {
			name := typ.Field(i).Name
			if !slices.ContainsFunc(FDKinds(), func(k *FDKind) bool { return slices.Contains(k.Fields, name) }) {
				continue
			}
			f := File{Kind: k.Name}
			if k.New != nil {
				f.Of = k.New()
			}
			makeNonZero(reflect.ValueOf(&f).Elem().Field(i))
			if err := checkFDKind(&f); (err == nil) != slices.Contains(k.Fields, name) {
				t.Errorf("%s with %s: %v", k.Name, name, err)
			}
		}
	}
	if checkFDKind(&File{Kind: "unheard of"}) == nil {
		t.Error("an unknown kind is valid")
	}
}

// A description is valid with the payload of its kind and with no other.
func TestTableOfPayloads(t *testing.T) {
	payloads := []Payload{nil}
	for _, k := range FDKinds() {
		if k.New != nil {
			payloads = append(payloads, k.New())
		}
	}
	for _, k := range FDKinds() {
		if strings.Trim(k.Name, "abcdefghijklmnopqrstuvwxyz") != "" || len(k.Name) > 13 {
			t.Errorf("%q is no name for a record", k.Name)
		}
		for _, p := range payloads {
			own := k.New == nil && p == nil || k.New != nil && reflect.TypeOf(p) == reflect.TypeOf(k.New())
			if err := checkFDKind(&File{Kind: k.Name, Of: p}); (err == nil) != own {
				t.Errorf("%s with %T: %v", k.Name, p, err)
			}
		}
	}
}

func makeNonZero(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	default:
		v.SetUint(1)
	}
}

// A mapping is valid with flags that can be brought back and with no other.
func TestTableOfFlagsIsValidated(t *testing.T) {
	for _, f := range vmaFlags {
		err := checkFlags(&VMA{Kind: VMAAnon, Flags: []string{f.Name}})
		if (err == nil) != (f.How != FlagRefused) {
			t.Errorf("%s: %v", f.Name, err)
		}
		if f.Title == "" || f.How.Text() == "" {
			t.Errorf("%s has no words", f.Name)
		}
		if needsArg := f.How == FlagMapped || f.How == FlagAdvised; needsArg != (f.Arg != 0) && f.How != FlagLocked {
			t.Errorf("%s is %s with the argument %#x", f.Name, f.How, f.Arg)
		}
	}
	if checkFlags(&VMA{Kind: VMAAnon, Flags: []string{"q7"}}) == nil {
		t.Error("an unknown flag is valid")
	}
}
