package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Images that are cut, flipped or from the future: exit status 5, one line, and nothing runs. The reader's own tests go
// through every byte; here a sample of them goes through the whole command.
func TestDamagedImages(t *testing.T) {
	tg := start(t, caseNamed(t, "vmas/anon"))
	tg.snap()
	tg.kill()
	files := imageFiles(t, tg.path("image"))
	for _, file := range files {
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(file, tg.dir)
		for what, damaged := range damages(whole) {
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, verb := range []string{"verify", "restore"} {
				if len(damaged) == len(whole) && string(damaged) == string(whole) {
					continue
				}
				_, errs, status := tg.ckpt(verb, "image")
				if status != 5 || !strings.HasPrefix(errs, "bpfckpt: E_") || strings.Count(errs, "\n") != 1 {
					t.Errorf("%s of %s %s: status %d: %s", verb, name, what, status, errs)
				}
				if syscall.Kill(tg.pid, 0) == nil {
					t.Fatalf("%s of %s %s left a process", verb, name, what)
				}
			}
		}
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, errs, status := tg.ckpt("verify", "image"); status != 0 {
		t.Errorf("the image put together again: status %d: %s", status, errs)
	}
}

// imageFiles lists the files that make up an image, without those of the store.
func imageFiles(t *testing.T, store string) []string {
	t.Helper()
	var files []string
	dirs, err := filepath.Glob(filepath.Join(store, "images", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range dirs {
		if info, err := os.Lstat(name); err == nil && info.Mode().IsRegular() && info.Size() > 0 {
			files = append(files, name)
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %o", name, info.Mode().Perm())
			}
		}
	}
	if len(files) < 2 {
		t.Fatalf("only %v in %s", files, store)
	}
	return files
}

// damages are versions of a file that must be found out.
func damages(whole []byte) map[string][]byte {
	all := map[string][]byte{
		"emptied":         {},
		"without its end": whole[:len(whole)-1],
		"halved":          whole[:len(whole)/2],
		"with more":       append(append([]byte(nil), whole...), 0),
	}
	for i := range 12 {
		at := i * (len(whole) - 1) / 11
		flipped := append([]byte(nil), whole...)
		flipped[at] ^= 1 << (i % 8)
		all["flipped at "+filepath.Base(string(rune('a'+i)))] = flipped
	}
	return all
}
