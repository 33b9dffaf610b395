package image_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

// nobody is another user.
const nobody = 65534

// chain makes a store of three images, of which the later ones reference three of the four frames of the first.
func chain(t *testing.T, dir string) (first image.Info) {
	t.Helper()
	const quarter = heapPages / 4 * page
	heap := bytes.Repeat([]byte("not zero"), heapPages*page/8)
	parent := ""
	for i := range 3 {
		w, err := image.Create(dir, image.WriteOptions{Parent: parent, Level: image.LevelNone})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		for at := 0; at < len(heap) && i == 0; at += quarter {
			err = errors.Join(err, w.Lend(imagetest.Memory, imagetest.HeapAddr+uint64(at), heap[at:at+quarter], func() {}))
		}
		if i > 0 {
			err = errors.Join(w.Keep(imagetest.Memory, imagetest.HeapAddr, heapPages),
				w.Write(imagetest.Memory, imagetest.HeapAddr, pattern(uint64(i), heapPages/4)))
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := w.Commit(started())
		if err != nil {
			t.Fatal(err)
		}
		if parent = info.ID; i == 0 {
			first = info
		}
	}
	return first
}

// verbs is what can be done with a store: those that act on it or run what is in it, and those that look.
func verbs(dir string, first image.Info) (acting, looking map[string]func() error) {
	acting = map[string]func() error{
		"restore": func() error {
			r, err := image.Open(dir)
			if err == nil {
				err = r.Close()
			}
			return err
		},
		"snap": func() error {
			w, err := image.Create(dir, image.WriteOptions{})
			if err == nil {
				w.Abort()
			}
			return err
		},
		"rm": func() error {
			_, err := image.Remove(dir, first.ID)
			return err
		},
		"prune": func() error {
			_, err := image.Prune(dir, image.PruneOptions{Keep: 1})
			return err
		},
		"squash": func() error {
			_, _, err := image.Squash(context.Background(), dir, image.SquashOptions{Chain: true})
			return err
		},
	}
	looking = map[string]func() error{
		"log": func() error {
			_, err := image.Tree(dir)
			return err
		},
		"verify": func() error {
			r, err := image.View(dir)
			if err != nil {
				return err
			}
			defer r.Close()
			return r.Verify(context.Background(), nil)
		},
	}
	return acting, looking
}

// within fails if something takes longer than that of which it should not wait.
func within(t *testing.T, what string, do func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s waits", what)
		return nil
	}
}

// inventory is all that there is below a directory: names, kinds, modes, owners, blocks and contents.
func inventory(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d", path, fi.Mode(), st.Uid)
		if fi.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", st.Blocks, sha256.Sum256(content))
		}
		b.WriteByte('\n')
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func copyOf(t *testing.T, dir, to string, how ...string) {
	t.Helper()
	if out, err := exec.Command("cp", append(how, dir, to)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.Open(to)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close()) // else blocks are given out later
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Where somebody else can have put something, nothing is run and nothing changed; it can be looked at.
func TestForeignStore(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base")
	first := chain(t, base)
	all := func(do func(path string) error) func(dir string) error {
		return func(dir string) error {
			return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return do(path)
			})
		}
	}
	mode := func(mode uint32, names ...string) func(dir string) error {
		return func(dir string) error {
			return unix.Chmod(filepath.Join(append([]string{dir}, names...)...), mode)
		}
	}
	for what, change := range map[string]func(dir string) error{
		"another user's":             all(func(path string) error { return os.Chown(path, nobody, nobody) }),
		"another user's image":       func(dir string) error { return os.Chown(filepath.Join(dir, "images", first.ID), nobody, 0) },
		"another user's data":        func(dir string) error { return os.Chown(filepath.Join(dir, "images", first.ID, "data"), nobody, 0) },
		"open to all":                mode(0o777),
		"open to the group":          mode(0o770),
		"images open to all":         mode(0o777, "images"),
		"image open to all":          mode(0o777, "images", first.ID),
		"data open to all":           mode(0o666, "images", first.ID, "data"),
		"mark open to all":           mode(0o666, "store"),
		"another user's, and sticky": func(dir string) error { return errors.Join(os.Chown(dir, nobody, 0), unix.Chmod(dir, 0o1777)) },
	} {
		dir := filepath.Join(t.TempDir(), "store")
		copyOf(t, base, dir, "-a")
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		before := inventory(t, dir)
		acting, looking := verbs(dir, first)
		for verb, do := range acting {
			if verb == "snap" && strings.Contains(what, "image") || verb == "snap" && strings.Contains(what, "data") {
				continue // it looks at no image
			}
			err := within(t, verb, do)
			if wantCode(t, err, fault.StoreForeign); t.Failed() {
				t.Fatalf("%s: %s", what, verb)
			}
		}
		if got := inventory(t, dir); got != before {
			t.Errorf("%s: the store was changed", what)
		}
		for verb, do := range looking {
			if err := do(); err != nil {
				t.Errorf("%s: %s: %v", what, verb, err)
			}
		}
	}
}

// In a directory like /tmp others can add names, but not touch ours.
func TestStickyStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	first := chain(t, dir)
	if err := unix.Chmod(dir, 0o1777); err != nil {
		t.Fatal(err)
	}
	acting, looking := verbs(dir, first)
	for _, verb := range []string{"restore", "snap", "rm", "prune", "squash"} {
		if err := acting[verb](); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
	for verb, do := range looking {
		if err := do(); err != nil {
			t.Errorf("%s: %v", verb, err)
		}
	}
}

// A link that another user has laid to a store of ours, as in /tmp, is not taken for the store; ours is.
func TestLinkToStore(t *testing.T) {
	base := t.TempDir()
	first := chain(t, filepath.Join(base, "store"))
	link := filepath.Join(base, "link")
	if err := os.Symlink("store", link); err != nil {
		t.Fatal(err)
	}
	if err := open(t, link).Close(); err != nil {
		t.Error(err)
	}
	if err := os.Lchown(link, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	acting, _ := verbs(link, first)
	for _, do := range acting {
		wantCode(t, do(), fault.StoreForeign)
	}
}

// entries are the files and directories of a store that something else can be in the place of.
func entries(dir string, first image.Info) (paths []string) {
	for _, name := range []string{"store", "head", "images", "tmp"} {
		paths = append(paths, filepath.Join(dir, name))
	}
	at := filepath.Join(dir, "images", first.ID)
	for _, name := range []string{"", "info", "state", "pages", "data"} {
		paths = append(paths, filepath.Join(at, name))
	}
	return paths
}

// refusing are the verbs that must refuse what is in the place of an entry: those that need it.
func refusing(path, verb string) bool {
	switch base := filepath.Base(path); base {
	case "store":
		return true
	case "head":
		return verb == "restore" || verb == "squash" || verb == "verify" || verb == "log" || verb == "prune"
	case "tmp":
		return verb == "snap" || verb == "squash"
	case "images":
		return true
	case "info":
		return verb == "rm" || verb == "prune" || verb == "squash"
	case "state", "pages":
		return verb == "rm" || verb == "prune"
	default:
		return verb != "snap" && verb != "log"
	}
}

// in tries all verbs on a store in which something lies in the place of each entry, one after the other. put is given
// where the entry is to be, and where it has been moved.
func in(t *testing.T, put func(path, moved string) error) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "base")
	first := chain(t, base)
	for _, path := range entries("", first) {
		acting, looking := verbs("", first)
		for _, verb := range slices.Concat(slices.Sorted(maps.Keys(acting)), slices.Sorted(maps.Keys(looking))) {
			work := t.TempDir()
			dir, moved := filepath.Join(work, "store"), filepath.Join(work, "moved")
			copyOf(t, base, dir, "-a")
			at := filepath.Join(dir, path)
			if err := errors.Join(os.Rename(at, moved), put(at, moved)); err != nil {
				t.Fatal(err)
			}
			before := inventory(t, moved)
			acting, looking := verbs(dir, first)
			do := acting[verb]
			if do == nil {
				do = looking[verb]
			}
			if err := within(t, verb, do); err == nil && refusing(path, verb) {
				t.Errorf("%s: %s: not refused", path, verb)
			}
			if got := inventory(t, moved); got != before {
				t.Errorf("%s: %s: what was moved outside was changed", path, verb)
			}
		}
	}
}

// A symbolic link is followed nowhere in a store, wherever it leads.
func TestLinkInPlace(t *testing.T) {
	in(t, func(path, moved string) error { return os.Symlink(moved, path) })
}

// A FIFO in the place of a file or a directory makes nobody wait.
func TestFIFOInPlace(t *testing.T) {
	in(t, func(path, _ string) error { return unix.Mkfifo(path, 0o600) })
}

// A copy of a store that is made of hard links stays whole when the store gives data up.
func TestHardLinkedCopy(t *testing.T) {
	base := t.TempDir()
	dir, backup := filepath.Join(base, "store"), filepath.Join(base, "backup")
	first := chain(t, dir)
	copyOf(t, dir, backup, "-al")
	before := inventory(t, backup)
	for _, do := range []func() error{
		func() error { _, err := image.Remove(dir, first.ID); return err },
		func() error {
			_, _, err := image.Squash(t.Context(), dir, image.SquashOptions{Chain: true})
			return err
		},
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if inventory(t, backup) != before {
			t.Fatal("the copy was changed")
		}
	}
	if err := open(t, backup).Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	// An empty file that is known elsewhere is not made the mark of a store.
	empty := filepath.Join(base, "empty")
	fresh := filepath.Join(base, "fresh")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), os.Mkdir(fresh, 0o700),
		os.Link(empty, filepath.Join(fresh, "store"))); err != nil {
		t.Fatal(err)
	}
	_, err := image.Create(fresh, image.WriteOptions{})
	wantCode(t, err, fault.StoreForeign)
	if fi, err := os.Stat(empty); err != nil || fi.Size() != 0 {
		t.Error("it was written to", err)
	}
}

// Whatever changes places with a link to it while verbs are at work, nothing outside the store changes.
func TestSwappedMeanwhile(t *testing.T) {
	pristine := filepath.Join(t.TempDir(), "pristine")
	first := chain(t, pristine)
	for _, name := range []string{"", "data", "info", "state"} {
		for _, verb := range []string{"restore", "snap", "rm", "prune", "squash", "log", "verify"} {
			base := t.TempDir()
			dir, outside, link := filepath.Join(base, "store"), filepath.Join(base, "outside"), filepath.Join(base, "link")
			copyOf(t, pristine, dir, "-a")
			at := filepath.Join(dir, "images", first.ID, name)
			copyOf(t, at, outside, "-a")
			if err := os.Symlink(outside, link); err != nil {
				t.Fatal(err)
			}
			before := inventory(t, outside)
			acting, looking := verbs(dir, first)
			maps.Copy(acting, looking)
			stop := swap(link, at)
			for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
				_ = within(t, verb, acting[verb])
			}
			stop()
			if inventory(t, outside) != before {
				t.Errorf("%q, %s: what lies outside was changed", name, verb)
			}
		}
	}
}

// swap lets two names change places, again and again.
func swap(a, b string) (stop func()) {
	var swapping sync.WaitGroup
	end := make(chan struct{})
	swapping.Go(func() {
		for {
			select {
			case <-end:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	return func() {
		close(end)
		swapping.Wait()
	}
}

// A directory that another one has taken the place of is the one that was opened.
func TestMovedMeanwhile(t *testing.T) {
	base := t.TempDir()
	dir, away := filepath.Join(base, "store"), filepath.Join(base, "away")
	w, err := image.Create(dir, image.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(dir, away), os.Mkdir(dir, 0o777), os.Chown(dir, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(started()); err != nil {
		t.Fatal(err)
	}
	if err := open(t, away).Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if got := tree(t, dir); len(got) != 1 {
		t.Errorf("what has taken its place has %v", got)
	}
}
