package tracer

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// TestRingRecords reads records that a ring buffer could have: discarded ones among them, some across its end, in batches.
func TestRingRecords(t *testing.T) {
	const size = 4096
	memory := make([]byte, os.Getpagesize()+2*size)
	r := &ring{producer: memory, taken: new(atomic.Uint64), filled: new(atomic.Uint64), size: size}
	records, end := memory[os.Getpagesize():], uint64(0)
	put := func(mark uint32, b []byte) {
		whole := binary.NativeEndian.AppendUint32(nil, uint32(len(b))|mark)
		whole = append(append(whole, 0, 0, 0, 0), b...)
		for i, c := range whole {
			at := (end + uint64(i)) % size
			records[at], records[size+at] = c, c // the kernel maps the pages twice
		}
		end += uint64(len(whole)+7) &^ 7
	}
	var want, got []string
	take := func(b []byte) { got = append(got, string(b)) }
	for i := range 200 { // several times round
		text := strings.Repeat(string(rune('a'+i%26)), 1+i*37%300)
		if i%5 == 3 {
			put(ringDiscard, []byte(text))
		} else {
			put(0, []byte(text))
			want = append(want, text)
		}
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
	put(0, []byte("too long"))
	r.filled.Store(end - 8)
	if err := r.each(r.end(), take); err == nil || !strings.Contains(err.Error(), "8 bytes with 8 left") {
		t.Errorf("a record longer than what there is: %v", err)
	}
}
