package image

import (
	"reflect"
	"strings"
	"unicode/utf8"
)

// Names in the kernel are bytes; JSON has text only, and encoding/json replaces what is not UTF-8. A byte b that is not
// part of UTF-8 is stored as the private-use rune escapeBase+b, and so is each byte of those runes themselves, so that
// every string comes back as it was.
const (
	escapeBase  = 0x10FF00
	escapeFirst = escapeBase + 0x80
	escapeLast  = escapeBase + 0xFF
)

// escapeMark begins the UTF-8 form of all escaped bytes, and of few other runes.
var escapeMark = []byte{0xF4, 0x8F}

// escapeText returns s as UTF-8.
func escapeText(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, string(escapeMark)) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && n == 1 || r >= escapeFirst && r <= escapeLast {
			for i := range n {
				b.WriteRune(escapeBase + rune(s[i]))
			}
		} else {
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// unescapeText undoes escapeText.
func unescapeText(s string) string {
	if !strings.Contains(s, string(escapeMark)) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r >= escapeFirst && r <= escapeLast {
			b.WriteByte(byte(r - escapeBase))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// mapStrings replaces every string that v leads to.
func mapStrings(v reflect.Value, f func(string) string) {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); s != "" {
			if n := f(s); n != s {
				v.SetString(n)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			mapStrings(v.Field(i), f)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			mapStrings(v.Elem(), f)
		}
	case reflect.Slice, reflect.Array:
		switch v.Type().Elem().Kind() {
		case reflect.String, reflect.Struct, reflect.Pointer, reflect.Slice:
			for i := range v.Len() {
				mapStrings(v.Index(i), f)
			}
		}
	}
}
