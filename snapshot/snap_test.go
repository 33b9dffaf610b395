package snapshot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/model"
)

func snap(t *testing.T, pid int, o Options) (*Result, *image.Reader) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "store")
	}
	res, err := Snap(context.Background(), pid, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := image.Open(res.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return res, r
}

// content is what an image says of a space.
type content struct {
	pages map[uint64][]byte // of data; nil for a page recorded as zero
}

func load(t *testing.T, r *image.Reader, space model.Space) content {
	t.Helper()
	c := content{pages: map[uint64][]byte{}}
	for _, run := range r.Runs(space) {
		if run.Kind == image.Zero {
			for i := range run.Pages {
				c.pages[run.Addr+i*model.PageSize] = nil
			}
		}
	}
	err := r.Load(context.Background(), space, 1, func(addr uint64, data []byte) error {
		for i := 0; i < len(data); i += model.PageSize {
			c.pages[addr+uint64(i)] = bytes.Clone(data[i : i+model.PageSize])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// page is what a process finds at a page after a restore: what the image has, else what the mapping's object has, else
// zeros.
func (c content) page(addr uint64, below func() []byte) []byte {
	p, ok := c.pages[addr]
	switch {
	case ok && p != nil:
		return p
	case ok || below == nil:
		return make([]byte, model.PageSize)
	}
	return below()
}

// sameMemory compares the memory of a stopped process, byte for byte, with what the image would bring back.
func sameMemory(t *testing.T, r *image.Reader, p *model.Process) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	own := load(t, r, p.Space)
	objects := map[int]content{}
	compared := 0
	for i := range p.VMAs {
		v := &p.VMAs[i]
		if v.Kind == model.VMAVDSO || v.Kind == model.VMAVVar || v.End-v.Start > 1<<30 {
			continue
		}
		for addr := v.Start; addr < v.End; addr += model.PageSize {
			have := make([]byte, model.PageSize)
			if _, err := mem.ReadAt(have, int64(addr)); err != nil {
				continue // a guard, or beyond the end of the file
			}
			want := own.page(addr, below(t, r, v, addr, objects))
			// others may have uprobes in our libraries
			if !bytes.Equal(have, want) && !(isCode(v) && onlyBreakpoints(have, want)) {
				t.Fatalf("page %x of mapping %x-%x (%s) differs from the image", addr, v.Start, v.End, v.Name)
			}
			compared++
		}
	}
	if compared == 0 {
		t.Error("nothing was compared")
	}
}

// below returns how to read the page of the object that v maps at addr.
func below(t *testing.T, r *image.Reader, v *model.VMA, addr uint64, objects map[int]content) func() []byte {
	off := v.Offset + addr - v.Start
	switch {
	case v.Kind == model.VMAShmem:
		c, ok := objects[v.Shmem]
		if !ok {
			c = load(t, r, r.State().Shmems[v.Shmem-1].Space)
			objects[v.Shmem] = c
		}
		return func() []byte { return c.page(off, nil) }
	case v.File.Unlinked != 0:
		c, ok := objects[-v.File.Unlinked]
		if !ok {
			c = load(t, r, r.State().Unlinked[v.File.Unlinked-1].Space)
			objects[-v.File.Unlinked] = c
		}
		return func() []byte { return c.page(off, nil) }
	case v.Kind == model.VMAFile:
		return func() []byte {
			f, err := os.Open(v.File.Path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			b := make([]byte, model.PageSize)
			_, _ = f.ReadAt(b, int64(off)) // short at the end of the file
			return b
		}
	}
	return nil
}

func TestMemoryInImageIsMemoryOfTarget(t *testing.T) {
	const long = "many sparse big" // what takes long where processors are emulated
	for _, c := range []struct {
		source string
		names  []string
	}{
		{"proc", []string{
			"anon", "sparse", "many", "grows-down", "private-file", "shared-file", "shared-anon", "memfd",
			"memfd-unmapped", "prot-none",
			"guard", "advice", "deleted-file", "replaced-file", "truncated-file", "heap", "big",
		}},
		// what sources could see in different ways
		{"iter", []string{"many", "shared-anon", "memfd", "guard", "deleted-file"}},
	} {
		for _, name := range c.names {
			if testing.Short() && strings.Contains(long, name) {
				continue
			}
			t.Run(c.source+"/"+name, func(t *testing.T) {
				tg := start(t, "vmas", name)
				res, r := snap(t, tg.pid(), Options{Stop: true, Compress: image.LevelNone, Source: c.source})
				awaitState(t, tg.pid(), "T")
				sameMemory(t, r, &r.State().Processes[0])
				kill(t, tg.pid(), unix.SIGCONT)
				tg.finish()
				t.Logf("freeze %d us, wall %d us, %+v, %d pages, %d bytes", res.FreezeUS, res.WallUS, res.Phases,
					res.PagesWritten, res.BytesWritten)
			})
		}
	}
}

// TestBreakpointsOfOthersAreNotSaved has a page of code with a breakpoint in it, which is left out, and one that the
// program changed.
func TestBreakpointsOfOthersAreNotSaved(t *testing.T) {
	tg := start(t, "idle", "patched")
	var probed, changed uint64
	if _, err := fmt.Fscanf(tg.out, "%x %x\n", &probed, &changed); err != nil {
		t.Fatal(err)
	}
	_, r := snap(t, tg.pid(), Options{Source: "proc"})
	own := load(t, r, r.State().Processes[0].Space)
	if _, ok := own.pages[probed]; ok {
		t.Error("a breakpoint is in the image")
	}
	if p, ok := own.pages[changed]; !ok || p[100] != 0xc3 {
		t.Errorf("the program's own change is lost")
	}
	tg.finish()
}
