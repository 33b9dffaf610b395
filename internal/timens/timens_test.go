package timens

import (
	"os"
	"strings"
	"testing"
)

func TestParseAndSplit(t *testing.T) {
	for _, ns := range []int64{0, 1, -1, 1_500_000_000, -1_500_000_000, -3_000_000_000} {
		o, err := parse(strings.NewReader("monotonic " + split(ns) + "\nboottime 0 0\n"))
		if err != nil || o.Monotonic != ns || o.Boottime != 0 {
			t.Errorf("%d reads back as %+v, %v", ns, o, err)
		}
	}
	for _, bad := range []string{"monotonic 1\n", "realtime 0 0\n", "monotonic x 0\n"} {
		if _, err := parse(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestClocks(t *testing.T) {
	own, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	a, err := own.Clocks()
	if err != nil {
		t.Fatal(err)
	}
	b, err := own.Clocks()
	if err != nil {
		t.Fatal(err)
	}
	if b.Monotonic < a.Monotonic || b.Boottime < b.Monotonic {
		t.Errorf("clocks went from %+v to %+v", a, b)
	}
}
