package main

import "testing"

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"4096": 4096, "5000": 4096, "64KiB": 64 << 10, "3MiB": 3 << 20,
		"1GiB": 1 << 30, "1024GiB": 1 << 40,
	} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1GiB", "1", "1TiB", "1.5GiB", "GiB", "1025GiB", "99999999999999999999"} {
		if got, err := parseBytes(text); err == nil {
			t.Errorf("%q: got %d", text, got)
		}
	}
}
