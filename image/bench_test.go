package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

// benchPages is the memory of the benchmarks' process: 256 MiB, half random, half text.
const benchPages = 64 << 10

func benchMemory() []byte {
	b := make([]byte, benchPages*page)
	rng := rand.NewChaCha8([32]byte{})
	for i := 0; i < len(b); i += 2 * page {
		_, _ = rng.Read(b[i : i+page])
		for j := 0; j < page; j += 16 {
			copy(b[i+page+j:], fmt.Sprintf("%016d", i/7+j%640))
		}
	}
	return b
}

func benchState() *model.State {
	st := imagetest.State()
	p := &st.Processes[0]
	p.Start = 4711
	p.VMAs[1].End = p.VMAs[1].Start + benchPages*page
	return st
}

// benchWrite writes one image of memory in pieces like those of a snapshot.
func benchWrite(b *testing.B, dir string, level image.Level, memory []byte) {
	w, err := image.Create(dir, image.WriteOptions{Level: level})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Abort()
	const piece = 4 << 20
	for i := 0; i < len(memory); i += piece {
		if err := w.Write(imagetest.Memory, imagetest.HeapAddr+uint64(i),
			memory[i:min(i+piece, len(memory))]); err != nil {
			b.Fatal(err)
		}
	}
	info, err := w.Commit(benchState())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.BytesWritten)/float64(info.BytesRaw), "stored/raw")
}

// BenchmarkLend is BenchmarkWrite without the copy.
func BenchmarkLend(b *testing.B) {
	memory := benchMemory()
	for _, level := range []image.Level{image.LevelNone, image.LevelFast} {
		b.Run(string(level), func(b *testing.B) {
			b.SetBytes(int64(len(memory)))
			for b.Loop() {
				w, err := image.Create(b.TempDir(), image.WriteOptions{Level: level})
				if err != nil {
					b.Fatal(err)
				}
				var left sync.WaitGroup
				left.Add(1)
				if err := w.Lend(imagetest.Memory, imagetest.HeapAddr, memory, left.Done); err != nil {
					b.Fatal(err)
				}
				left.Wait()
				if _, err := w.Commit(benchState()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkWrite(b *testing.B) {
	memory := benchMemory()
	for _, level := range image.Levels() {
		b.Run(string(level), func(b *testing.B) {
			b.SetBytes(int64(len(memory)))
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				b.StartTimer()
				benchWrite(b, dir, level, memory)
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	memory := benchMemory()
	for _, level := range image.Levels() {
		b.Run(string(level), func(b *testing.B) {
			dir := b.TempDir()
			benchWrite(b, dir, level, memory)
			b.SetBytes(int64(len(memory)))
			for b.Loop() {
				r, err := image.Open(dir)
				if err != nil {
					b.Fatal(err)
				}
				if err := r.Load(context.Background(), imagetest.Memory, 0,
					func(uint64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
				_ = r.Close()
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	save(b, dir, image.WriteOptions{}, pattern(1, 256))
	for b.Loop() {
		r, err := image.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

func BenchmarkOpenManyMappings(b *testing.B) {
	dir := b.TempDir()
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Abort()
	st := imagetest.State()
	p := &st.Processes[0]
	stack := p.VMAs[3]
	p.VMAs = p.VMAs[:3]
	for i := range uint64(10000) {
		at := 0x7f1000000000 + i*2*page
		p.VMAs = append(p.VMAs, model.VMA{
			Start: at, End: at + page, Prot: 3, Kind: model.VMAAnon,
			Flags: []string{"mr", "mw", "rd", "wr"},
		})
		if err := w.Write(imagetest.Memory, at, pattern(i, 3)[2*page:]); err != nil {
			b.Fatal(err)
		}
	}
	p.VMAs = append(p.VMAs, stack)
	if _, err := w.Commit(st); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r, err := image.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

// TestMemoryIsBounded writes and reads back 256 MiB and watches how much of the heap is in use.
func TestMemoryIsBounded(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	const piece = 1 << 20
	buf := make([]byte, piece)
	rng := rand.NewChaCha8([32]byte{})
	for _, level := range []image.Level{image.LevelNone, image.LevelBest} {
		dir := t.TempDir()
		total := uint64(benchPages * page)
		if level == image.LevelBest {
			total /= 8
		}
		runtime.GC()
		base, peak := inUse(), uint64(0)
		w, err := image.Create(dir, image.WriteOptions{Level: level, Workers: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		for at := uint64(0); at < total; at += piece {
			_, _ = rng.Read(buf[:piece/2])
			if err := w.Write(imagetest.Memory, imagetest.HeapAddr+at, buf); err != nil {
				t.Fatal(err)
			}
			peak = max(peak, inUse())
		}
		if _, err := w.Commit(benchState()); err != nil {
			t.Fatal(err)
		}
		peak = max(peak, inUse())
		err = open(t, dir).Load(t.Context(), imagetest.Memory, 1,
			func(uint64, []byte) error { peak = max(peak, inUse()); return nil })
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d KiB at most", level, (peak-min(base, peak))>>10)
		if peak > base+32<<20 {
			t.Errorf("%s: %d bytes of heap in use", level, peak-base)
		}
	}
}

// inUse is how many bytes of heap hold objects.
func inUse() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkContinue adds a small image to one whose pages have been written here and there so often that each is a run
// of its own.
func BenchmarkContinue(b *testing.B) {
	const changed = benchPages / 100
	rng := rand.New(rand.NewPCG(1, 2))
	dir := b.TempDir()
	benchWrite(b, dir, image.LevelNone, benchMemory())
	content := pattern(1, 3)[2*page:]
	next := func(n int) {
		head, err := image.Head(dir)
		if err != nil {
			b.Fatal(err)
		}
		w, err := image.Create(dir, image.WriteOptions{Level: image.LevelNone, Parent: head})
		if err != nil {
			b.Fatal(err)
		}
		defer w.Abort()
		if err := w.Keep(imagetest.Memory, imagetest.HeapAddr, benchPages); err != nil {
			b.Fatal(err)
		}
		pages := rng.Perm(benchPages)[:n]
		slices.Sort(pages)
		for _, i := range pages {
			if err := w.Write(imagetest.Memory, imagetest.HeapAddr+uint64(i)*page, content); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := w.Commit(benchState()); err != nil {
			b.Fatal(err)
		}
	}
	next(benchPages / 2)
	for b.Loop() {
		next(changed)
	}
}
