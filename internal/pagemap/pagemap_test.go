package pagemap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const madvGuardInstall = 102 // MADV_GUARD_INSTALL, Linux 6.13

// crafted is a mapping of this process, of 16 pages: 0 and 1 written, 2 read only (zero page), 3 never touched, 4
// written and then PROT_NONE, 5 written and dropped, 6 a guard page (if the kernel has them), 7 to 15 never touched.
func crafted(t *testing.T) (start uint64, guards bool) {
	t.Helper()
	m, err := unix.Mmap(-1, 0, 16*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	page := func(i int) []byte { return m[i*PageSize : (i+1)*PageSize] }
	if err := unix.Madvise(m, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1, 4, 5} {
		page(i)[9] = 1
	}
	if page(2)[7] != 0 {
		t.Fatal("fresh memory is not zero")
	}
	if err := unix.Mprotect(page(4), unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Madvise(page(5), unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	guards = unix.Madvise(page(6), madvGuardInstall) == nil
	return address(m), guards
}

func walk(t *testing.T, m *Map, start uint64, q Query) []Region {
	t.Helper()
	var got []Region
	err := m.Walk(start, start+16*PageSize, q, func(r Region) error {
		r.Start, r.End = (r.Start-start)/PageSize, (r.End-start)/PageSize
		got = append(got, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// frame is the number of the page frame that a page of ours is in (Documentation/admin-guide/mm/pagemap.rst); 0 if it
// is in none.
func frame(t *testing.T, page []byte) uint64 {
	t.Helper()
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [8]byte
	if _, err := f.ReadAt(b[:], int64(address(page)/PageSize*8)); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:]) & (1<<55 - 1)
}

// zeroPage is whether this kernel has one page for all memory that was only read. There are kernels for virtual
// machines that have not.
func zeroPage(t *testing.T) bool {
	t.Helper()
	mem, err := unix.Mmap(-1, 0, 3*PageSize, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // EINVAL if there are none
	first, third := mem[:PageSize], mem[2*PageSize:]
	if first[0]+third[0] != 0 {
		t.Fatal("fresh memory is not zero")
	}
	return frame(t, first) == frame(t, third)
}

func TestWalkSelectsPrivatePages(t *testing.T) {
	start, guards := crafted(t)
	m, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	q := Query{Invert: File | PFNZero, All: File | PFNZero, Any: Present | Swapped, Return: Guard}
	want := []Region{{0, 2, 0}, {4, 5, 0}}
	if guards {
		want = append(want, Region{6, 7, Guard})
	}
	if !zeroPage(t) {
		want[0].End = 3 // what was only read is a page of its own
	}
	got := walk(t, m, start, q)
	if m.noGuard { // Linux before 6.15 takes a guard page for a swapped one
		want[len(want)-1].Categories = 0
	}
	if !m.noScan && !slices.Equal(got, want) {
		t.Errorf("scan: got pages %v, want %v", got, want)
	}
	if m.noScan {
		t.Log("no PAGEMAP_SCAN here: entries only")
	}
	m.UseEntries()
	want[0].End = 3 // entries cannot tell the zero page
	if got := walk(t, m, start, q); !slices.Equal(got, want) {
		t.Errorf("entries: got pages %v, want %v", got, want)
	}
	if err := m.Walk(start, start+PageSize, Query{All: Written}, func(Region) error { return nil }); err == nil {
		t.Error("entries answered a question about written pages")
	}
}

// The kernel tells a wrong end of a walk that found more regions than its own buffer holds: each comes once all the
// same.
func TestWalkManyRegions(t *testing.T) {
	for _, pages := range []int{512, 513, 600, 1024, 4096, 4097, 5000} {
		mem, err := unix.Mmap(-1, 0, (2*pages+64)*PageSize, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE) // EINVAL if there are none
		for i := range pages {
			mem[2*i*PageSize] = 1
		}
		m, err := Open(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		start := address(mem)
		n := 0
		err = m.Walk(start, start+uint64(len(mem)), Content(true), func(r Region) error {
			at := start + uint64(2*n*PageSize)
			if r != (Region{Start: at, End: at + PageSize}) {
				t.Fatalf("%d: got %x, want %x", n, r.Start, at)
			}
			n++
			return nil
		})
		if err != nil || n != pages {
			t.Errorf("%d regions of %d; %v", n, pages, err)
		}
		m.Close()
		_ = unix.Munmap(mem)
	}
}

// A huge zero page is no content, whether or not files are asked for, and whoever is asked.
func TestWalkHugeZeroPage(t *testing.T) {
	const size, huge = 8 << 20, 2 << 20
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	if err := unix.Madvise(mem, unix.MADV_HUGEPAGE); err != nil {
		t.Skipf("no huge pages: %v", err)
	}
	first := -uint64(address(mem)) & (huge - 1) // of the first huge page
	if mem[first]+mem[first+huge] != 0 {
		t.Fatal("fresh memory is not zero")
	}
	// small zero pages entries cannot tell: if there is no huge one, two are reported
	least, most := uint64(0), uint64(2)
	if !zeroPage(t) && frame(t, mem[first:]) != frame(t, mem[first+huge:]) {
		least, most = 2, 2*huge/PageSize // what was only read are pages of its own, of either size
	}
	m, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, entries := range []bool{false, true} {
		if entries {
			m.UseEntries()
		}
		for _, anon := range []bool{false, true} {
			pages := uint64(0)
			err := m.Walk(address(mem), address(mem)+size, Content(anon), func(r Region) error {
				pages += (r.End - r.Start) / PageSize
				return nil
			})
			if err != nil || pages < least || pages > most {
				t.Errorf("entries %v, anonymous memory only %v: %d pages; %v", entries, anon, pages, err)
			}
		}
	}
}

// TestGone looks at the memory of a process that ends, or executes another program: nothing found is not the same as
// nothing there.
func TestGone(t *testing.T) {
	for _, entries := range []bool{false, true} {
		for _, end := range []string{"end", "exec"} {
			t.Run(fmt.Sprintf("%s/entries=%v", end, entries), func(t *testing.T) {
				cmd := exec.Command("sh", "-c", "echo; read line; exec cat")
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = cmd.Wait() }()
				defer in.Close()
				answer := bufio.NewReader(out)
				if _, err := answer.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
				m, err := Open(cmd.Process.Pid)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				if entries {
					m.UseEntries()
				}
				look := func() error {
					return m.Walk(0, 1<<22, Content(true), func(Region) error { return nil })
				}
				if err := errors.Join(look(), m.Alive()); err != nil {
					t.Fatal(err)
				}
				if end == "end" {
					_ = cmd.Process.Kill()
					_ = cmd.Wait()
				} else if _, err := in.Write([]byte("\nline\n")); err != nil {
					t.Fatal(err)
				} else if _, err := answer.ReadString('\n'); err != nil { // from cat
					t.Fatal(err)
				}
				for what, err := range map[string]error{"a walk": look(), "Alive": m.Alive()} {
					if !errors.Is(err, unix.ESRCH) {
						t.Errorf("%s of memory that is gone: %v", what, err)
					}
				}
			})
		}
	}
}

// After a fork the frames of both are the same until one of them writes; what is only one's is never told.
func TestCommon(t *testing.T) {
	const pages = 3 << 10 // more than fit into one read
	m, err := unix.Mmap(-1, 0, pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	if err := unix.Madvise(m, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	for i := range pages / 2 {
		m[i*PageSize] = 1
	}
	start := address(m)
	ours, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	frames := map[uint64]bool{}
	look := func(addr, frame uint64) { frames[addr] = true }
	if err := ours.Frames(start, start+pages*PageSize, look); err != nil || len(frames) != 0 {
		t.Fatalf("before the fork %d pages are somebody else's, %v", len(frames), err)
	}
	child, theirs := forkedChild(t)
	defer theirs.Close()
	m[2000*PageSize] = 2 // new in the parent, after the fork
	m[5*PageSize], m[1500*PageSize] = 2, 2
	if err := ours.Frames(start, start+pages*PageSize, look); err != nil {
		t.Fatal(err)
	}
	if len(frames) == 0 {
		t.Fatal("page frames are not told: these tests want root (CAP_SYS_ADMIN)")
	}
	if len(frames) != pages/2-2 || frames[start+5*PageSize] {
		t.Errorf("after the fork %d pages are others', too", len(frames))
	}
	var got []Region
	err = ours.Common(theirs, start, start+pages*PageSize, func(from, to uint64) error {
		got = append(got, Region{Start: (from - start) / PageSize, End: (to - start) / PageSize})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	joined := got[:0] // runs end where a read ends
	for _, r := range got {
		if n := len(joined); n > 0 && joined[n-1].End == r.Start {
			joined[n-1].End = r.End
		} else {
			joined = append(joined, r)
		}
	}
	want := []Region{{Start: 0, End: 5}, {Start: 6, End: 1500}, {Start: 1501, End: pages / 2}}
	if !slices.Equal(joined, want) {
		t.Errorf("pages %v are common, want %v", joined, want)
	}
	if err := errors.Join(unix.Kill(child, unix.SIGKILL), wait(child)); err != nil {
		t.Fatal(err)
	}
	err = ours.Common(theirs, start, start+PageSize, func(from, to uint64) error { return errors.New("a dead one has pages") })
	if err != nil {
		t.Error(err)
	}
}

// forkedChild makes a child that has this process's memory and does nothing, and opens its page map.
func forkedChild(t *testing.T) (pid int, m *Map) {
	t.Helper()
	id, _, errno := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	if id == 0 {
		for {
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
	t.Cleanup(func() {
		_ = unix.Kill(int(id), unix.SIGKILL) // the test has ended it, if it came so far
		_ = wait(int(id))
	})
	m, err := Open(int(id))
	if err != nil {
		t.Fatal(err)
	}
	return int(id), m
}

func wait(pid int) error {
	_, err := unix.Wait4(pid, nil, 0, nil)
	return err
}
