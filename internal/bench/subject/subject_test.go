package subject

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func start(t *testing.T, args ...string) *Process {
	t.Helper()
	path, err := InstallSubject(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), path, args)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

func count(t *testing.T, p *Process, what string) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", p.Pid, what))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestSubjectsHoldWhatTheyPromise(t *testing.T) {
	for _, args := range [][]string{
		Memory(1 << 20), Writing(1<<20, 1000), Mappings(100),
		Descriptors(50, "/proc/self/exe"), Threads(10),
	} {
		t.Run(args[0], func(t *testing.T) {
			p := start(t, args...)
			for range 3 {
				if err := Check(t.Context(), p.Pid); err != nil {
					t.Error(err)
				}
			}
			maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.Pid))
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.Count(maps, []byte("\n"))
			switch args[0] {
			case "mappings":
				if lines < 100 || lines > 110 {
					t.Errorf("%d mappings", lines)
				}
			case "descriptors":
				if n := count(t, p, "fd"); n != 53 {
					t.Errorf("%d descriptors", n)
				}
			case "threads":
				if n := count(t, p, "task"); n != 11 {
					t.Errorf("%d threads", n)
				}
			}
		})
	}
}

func TestCheckNoticesDamage(t *testing.T) {
	p := start(t, Memory(64<<10)...)
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.Pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if _, err := mem.WriteAt([]byte("damage"), largestAnon(t, p.Pid)+5*4096); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), p.Pid); err == nil || !strings.Contains(err.Error(), `"bad 1 6"`) {
		t.Errorf("got %v", err)
	}
}

// largestAnon returns the start of the subject's memory: its only mapping of 64 KiB.
func largestAnon(t *testing.T, pid int) int64 {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		var start, end int64
		if _, err := fmt.Sscanf(line, "%x-%x", &start, &end); err == nil && end-start == 64<<10 {
			return start
		}
	}
	t.Fatal("no mapping of 64 KiB")
	return 0
}

func TestBadArguments(t *testing.T) {
	path, err := InstallSubject(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), path, []string{"nonsense"}); err == nil {
		t.Error("started")
	}
}

func TestCalls(t *testing.T) {
	path, err := InstallCalls(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := StartCalls(exec.Command(path))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Stop()
	for _, call := range Calls() {
		d, err := c.Measure(call.Name, 20)
		if err != nil || d <= 0 {
			t.Errorf("%s: %v, %v", call.Name, d, err)
		}
	}
	if _, err := c.Measure("nonsense", 1); err == nil {
		t.Error("it knows a call it cannot know")
	}
}

// TestBuiltFromTheseSources notices a change that was not built.
func TestBuiltFromTheseSources(t *testing.T) {
	h := sha256.New()
	for _, name := range []string{"sys_amd64.h", "subject.c", "calls.c", "build"} {
		b, err := os.ReadFile(filepath.Join("src", name))
		if os.IsNotExist(err) && os.Getenv("BPFCKPT_GUEST") != "" {
			return // only the binary is there
		}
		if err != nil {
			t.Fatal(err)
		}
		h.Write(b)
	}
	want, err := os.ReadFile(filepath.Join("src", "source.sha256"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != strings.TrimSpace(string(want)) {
		t.Error("run go generate ./internal/bench/subject")
	}
}
