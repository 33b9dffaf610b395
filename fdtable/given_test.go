package fdtable

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// givenOf is what a stream is that leads to an open file.
func givenOf(t *testing.T, fd int) *Given {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return &Given{Rdev: st.Rdev}
	}
	return &Given{Dev: st.Dev, Ino: st.Ino}
}

// reopened opens a file as a shell does for >, >>, < or <>.
func reopened(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags|os.O_CREATE, 0o600)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// What becomes of standard output, a file with "one\n", for which the program stood at its end, when the same or
// another command line goes on.
func TestGivenOutput(t *testing.T) {
	const before = "one\n"
	cases := []struct {
		name   string
		flags  int                                   // of the program's stream
		change func(t *testing.T, path string)       // after the snapshot
		stream func(t *testing.T, p string) *os.File // of the one that goes on
		kept   string
		want   string // in the file of the stream, after "two\n" was written
		notes  string // a word of theirs, "" for none
	}{
		{"> again", 0, nil, emptied, before, "one\ntwo\n", "written to it again"},
		{"> again, and nothing kept", 0, nil, emptied, "", "two\n", "not in it"},
		{"> again, and too little kept", 0, nil, emptied, "o", "two\n", "are in"},
		{">> again", unix.O_APPEND, nil, appending, before, "one\ntwo\n", ""},
		{">> again after a crash", unix.O_APPEND, grownBy("lost\n"), appending, before, "one\ntwo\n", "cut back"},
		{"> and then >>, after a crash", 0, grownBy("lost\n"), appending, before, "one\ntwo\n", "cut back"},
		{
			"its beginning and then >>", unix.O_APPEND, becomes("on"), appending, before, "one\ntwo\n",
			"written to it again",
		},
		{"another beginning", unix.O_APPEND, becomes("xx"), appending, before, "xxtwo\n", "not in it"},
		{"removed, and > again", 0, removed, emptied, before, "one\ntwo\n", "written to it again"},
		{"1<> the same", 0, nil, readWrite, before, "one\ntwo\n", ""},
		{"> another", 0, nil, another, before, "two\n", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path, kept := filepath.Join(dir, "file"), filepath.Join(dir, "kept")
			fd := seekTo(t, file(t, dir, before, unix.O_WRONLY|c.flags), int64(len(before)))
			st, faults := asStd(t, []int{fd}, []int{1})
			accepted(t, faults)
			g := givenOf(t, fd)
			must(t, unix.Close(fd))
			if c.kept != "" {
				g.Kept = kept
				must(t, os.WriteFile(kept, []byte(c.kept), 0o600))
			}
			if c.change != nil {
				c.change(t, path)
			}
			std := c.stream(t, path)
			o := RebuildOptions{Std: [3]*os.File{nil, std, nil}, Given: [3]*Given{nil, g, nil}}
			table := rebuilt(t, st, emptyMemory(t), t.TempDir(), o)
			notes, err := table.Commit()
			must(t, err)
			_, err = unix.Write(table.FDFor(1, 1), []byte("two\n"))
			must(t, err)
			if text, _ := os.ReadFile(std.Name()); string(text) != c.want {
				t.Errorf("the file is %q and should be %q", text, c.want)
			}
			if all := strings.Join(notes, "\n"); !strings.Contains(all, c.notes) || (c.notes == "") != (all == "") {
				t.Errorf("notes %q", all)
			}
			if pos, err := std.Seek(0, io.SeekCurrent); err != nil || pos == 0 {
				t.Errorf("the position %d is not that of the stream (%v)", pos, err)
			}
		})
	}
}

func emptied(t *testing.T, path string) *os.File { return reopened(t, path, os.O_WRONLY|os.O_TRUNC) }

func appending(t *testing.T, path string) *os.File { return reopened(t, path, os.O_WRONLY|os.O_APPEND) }

func another(t *testing.T, path string) *os.File   { return emptied(t, path+".other") }
func readWrite(t *testing.T, path string) *os.File { return reopened(t, path, os.O_RDWR) }
func removed(t *testing.T, path string)            { must(t, os.Remove(path)) }

func becomes(text string) func(t *testing.T, path string) {
	return func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte(text), 0o600)) }
}

func grownBy(text string) func(t *testing.T, path string) {
	return func(t *testing.T, path string) { appendTo(t, path, text) }
}

// Standard input from a file goes on where the program had read to, and must not have changed; a pipe or another file
// in its place is that.
func TestGivenInput(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	fd := seekTo(t, file(t, dir, "0123456789", unix.O_RDONLY), 4)
	st, faults := asStd(t, []int{fd}, []int{0})
	accepted(t, faults)
	g := givenOf(t, fd)
	must(t, unix.Close(fd))
	other := filepath.Join(dir, "other")
	must(t, os.WriteFile(other, []byte("abc"), 0o600))
	for name, want := range map[string]string{path: "456789", other: "abc"} {
		std := reopened(t, name, os.O_RDONLY)
		o := RebuildOptions{Std: [3]*os.File{std, nil, nil}, Given: [3]*Given{g, nil, nil}}
		table := rebuilt(t, st, emptyMemory(t), dir, o)
		_, err := table.Commit()
		must(t, err)
		readsAs(want)(t, nil, []int{table.FDFor(1, 0)})
	}
	touch(t, path)
	o := RebuildOptions{Std: [3]*os.File{reopened(t, path, os.O_RDONLY), nil, nil}, Given: [3]*Given{g, nil, nil}}
	_, err := rebuild(context.Background(), st, dir, "id", o)
	mustFault(t, err, fault.FileChanged, path)
}

// A device is known again by its number; a description that a process has redirected itself is not the stream it got.
func TestGivenDevice(t *testing.T) {
	null := open(t, os.DevNull, unix.O_RDWR)
	st, faults := asStd(t, []int{null}, []int{1})
	accepted(t, faults)
	g := givenOf(t, null)
	must(t, unix.Close(null))
	out := reopened(t, filepath.Join(t.TempDir(), "out"), os.O_WRONLY)
	for n, want := range map[int]string{1: out.Name(), 2: os.DevNull} {
		o := RebuildOptions{Std: [3]*os.File{nil, out, out}}
		o.Given[n] = g
		table := rebuilt(t, st, emptyMemory(t), t.TempDir(), o)
		if got := pathOf(t, table.FDFor(1, 1)); got != want {
			t.Errorf("as stream %d it is %s and should be %s", n, got, want)
		}
	}
}

// What was written again is taken back if the last steps fail.
func TestRefillRollsBack(t *testing.T) {
	dir := t.TempDir()
	fd := seekTo(t, file(t, dir, "one\n", unix.O_WRONLY), 4)
	st, faults := asStd(t, []int{fd}, []int{1})
	accepted(t, faults)
	g := givenOf(t, fd)
	must(t, unix.Close(fd))
	g.Kept = filepath.Join(dir, "kept")
	must(t, os.WriteFile(g.Kept, []byte("one\n"), 0o600))
	std := emptied(t, filepath.Join(dir, "file"))
	o := RebuildOptions{Std: [3]*os.File{nil, std, nil}, Given: [3]*Given{nil, g, nil}}
	table := rebuilt(t, st, emptyMemory(t), dir, o)
	table.late = append(table.late, func() error { return fault.New(fault.FDRebuild, "test", "it was told to fail") })
	_, err := table.Commit()
	mustFault(t, err, fault.FDRebuild, "told to fail")
	if st, err := std.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("%d bytes were left (%v)", st.Size(), err)
	}
}
