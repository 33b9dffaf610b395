package tracer

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// TestRingRecords reads records that a ring could have, some of them behind its end, in batches.
func TestRingRecords(t *testing.T) {
	const size = 4096
	r, end := &ring{size: size}, uint64(0)
	r.lieIn(make([]byte, ringMapBytes(size)))
	put := func(b []byte) {
		n := (ringHead + uint64(len(b)) + 7) &^ 7
		place := r.records[end%size:][:n]
		if slices.ContainsFunc(place, func(b byte) bool { return b != 0 }) {
			t.Errorf("the place of a record at %d is not clear", end)
		}
		binary.NativeEndian.PutUint64(place, n)
		copy(place[ringHead:], b)
		end += n
	}
	var want, got []string
	take := func(b []byte) { got = append(got, strings.TrimRight(string(b), "\x00")) }
	for i := range 200 { // several times round
		text := strings.Repeat(string(rune('a'+i%26)), 1+i*37%300)
		put([]byte(text))
		want = append(want, text)
		r.filled.Store(end)
		if i%3 != 0 {
			continue
		}
		if r.waiting() == 0 {
			t.Error("nothing waits")
		}
		for limit := r.end(); r.read < limit; {
			if err := r.each(min(limit, r.read+100), take); err != nil {
				t.Fatal(err)
			}
		}
		if r.waiting() != 0 {
			t.Errorf("%d bytes still wait", r.waiting())
		}
	}
	if err := r.each(r.end(), take); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d records came, not the %d there were", len(got), len(want))
	}
	put([]byte("too long"))
	r.filled.Store(end - 8)
	if err := r.each(r.end(), take); err == nil || !strings.Contains(err.Error(), "16 bytes with 8 left") {
		t.Errorf("a record longer than what there is: %v", err)
	}
}

// TestRingSizes asks for rings whose positions would not be where the probes put them.
func TestRingSizes(t *testing.T) {
	for _, n := range []int{-1, 1, 2048, 3 << 20, 512 << 20} {
		w, err := Watch(t.Context(), os.Getpid(), WatchOptions{RingBytes: n})
		if err == nil {
			w.Close()
		}
		var f *fault.Error
		if !errors.As(err, &f) || f.Code != fault.BadOption {
			t.Errorf("a ring of %d bytes: %v", n, err)
		}
	}
}

// TestRingRefused opens a ring over maps that cannot be mapped: an error, not a panic.
func TestRingRefused(t *testing.T) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := openRing(m, m, minRing); err == nil {
		t.Error("a map that cannot be mapped was")
	}
}
