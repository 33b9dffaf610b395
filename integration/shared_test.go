package integration

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A process that shares memory with one that is not saved is refused: each of the two would go on with its own.
func TestSharedWithOutside(t *testing.T) {
	p := program{name: "files/half", argv: []string{"files", "half"}}
	tg := start(t, p)
	child := regexp.MustCompile(`child (\d+)`).FindStringSubmatch(tg.read("out"))
	if child == nil {
		t.Fatalf("no child: %s", tg.read("out"))
	}
	for _, args := range [][]string{{"check", child[1]}, {"snap", child[1], "--dir", "image"}} {
		out, errs, status := tg.ckpt(args...)
		if status != 4 || !strings.Contains(out+errs, "E_MAPPING") ||
			!strings.Contains(out+errs, "of pid "+pidOf(tg)+" (files), outside the tree") {
			t.Errorf("%v: status %d: %s%s", args, status, out, errs)
		}
	}
	tg.snap("--name", "both") // together they can be saved
	tg.goOn()
	if r := tg.finish(); r.status != 0 || !strings.Contains(r.out, "OK") {
		t.Errorf("%s", r)
	}
}

// Memory that processes share since fork(2) is in the image once, and snapshots leave it shared.
func TestForkedMemory(t *testing.T) {
	p := caseNamed(t, "forked/workers")
	want := control(t, p)
	tg := start(t, p)
	for i, flags := range [][]string{nil, {"--no-precopy"}} {
		s := tg.snap(append([]string{"--name", strconv.Itoa(i), "--compress", "none"}, flags...)...)
		if *s.Pages < 48<<8 || *s.Pages > 60<<8 {
			t.Errorf("%v: the image has %d pages", flags, *s.Pages)
		}
	}
	tg.goOn() // it looks how much memory the tree takes
	same(t, p.name, tg.finish(), want)
	os.Remove(tg.path("go"))
	tg.emptyOut()
	tg.restore("image@1")
	tg.goOn()
	same(t, p.name, tg.finish(), want)
}

// A tree that goes on writing to, unmapping and forking what it shares finds all of it as it was at one moment, and was
// never harmed by a snapshot.
func TestForkedRestless(t *testing.T) {
	modes := []struct {
		name          string
		snaps         int
		snap, restore []string
	}{
		{"precopy", 1, nil, nil},
		{"no-precopy", 1, []string{"--no-precopy"}, nil},
		{"incremental", 3, []string{"--incremental"}, nil},
		{"lazy", 1, nil, []string{"--lazy"}},
	}
	for seed, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			p := program{name: "restless", argv: []string{"forked", "restless", strconv.Itoa(seed + 1)}, wait: computes}
			want := control(t, p)
			for _, dies := range []bool{false, true} {
				tg := start(t, p)
				for range m.snaps {
					tg.snap(m.snap...)
				}
				if m.snaps > 1 {
					tg.endWatch()
				}
				if dies {
					tg.kill()
					tg.startRestore(append([]string{"image"}, m.restore...)...)
					tg.waitRestored()
				}
				tg.goOn()
				same(t, m.name, tg.finish(), want)
			}
		})
	}
}

// Named memory that is gone, as after a reboot, is made again; while somebody else has it, it is left alone.
func TestNamedMemory(t *testing.T) {
	p := caseNamed(t, "files/named-memory")
	want := control(t, p)
	tg := start(t, p)
	tg.snap()
	tg.kill()
	name := "/dev/shm/bpfckpt-test-" + pidOf(tg)
	t.Cleanup(func() { os.Remove(name) })
	left := []byte("left by somebody")
	if err := os.WriteFile(name, left, 0o640); err != nil {
		t.Fatal(err)
	}
	holder, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	fails(t, tg.dir, 6, "E_FILE_CHANGED", "restore", "image")
	holder.Close()
	if have, err := os.ReadFile(name); err != nil || string(have) != string(left) {
		t.Errorf("a restore that failed left %q, %v", have, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	tg.restore()
	tg.goOn()
	same(t, p.name, tg.finish(), want)
}

// The soft limits of whoever restores do not bound what the processes had, nor what is written for them.
func TestRestoreUnderLowLimits(t *testing.T) {
	for _, name := range []string{"vmas/sparse", "vmas/deleted-file", "files/many-files"} {
		t.Run(name, func(t *testing.T) {
			p := caseNamed(t, name)
			want := control(t, p)
			tg := start(t, p)
			tg.snap()
			tg.kill()
			tg.run(exec.Command("prlimit", "--fsize=4096:", "--nofile=200:", "--as=4000000000:", built.cmd, "restore",
				"image"), "restore.out", "restore.err")
			tg.waitRestored()
			tg.goOn()
			same(t, p.name, tg.finish(), want)
		})
	}
}
