package snapshot

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// TestKilledToolHarmsNobody kills the tool with SIGKILL at random moments. The target, which checks itself all the
// time, runs on with no tracer, and the store holds whole images only.
func TestKilledToolHarmsNobody(t *testing.T) {
	tg := start(t, "idle", "busy")
	store := filepath.Join(t.TempDir(), "store")
	sources := []string{"proc", "iter"}
	took := []time.Duration{timeSnap(t, tg.pid(), store, "proc"), timeSnap(t, tg.pid(), store, "iter")}
	random := rand.New(rand.NewPCG(1, 2))
	rounds, killed := 12, 0 // package integration has many more
	if testing.Short() {
		rounds = 4
	}
	for i := range rounds {
		cmd := tool(tg.pid(), store, sources[i%2])
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.Int64N(int64(took[i%2]) * 5 / 4)))
		_ = cmd.Process.Kill() // it may be done
		if err := cmd.Wait(); err != nil {
			killed++
		}
		requireFree(t, tg.pid())
	}
	t.Logf("%d of %d were killed before they were done, one takes %v", killed, rounds, took)
	r, err := image.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Verify(context.Background(), nil); err != nil {
		t.Error(err)
	}
	tg.finish()
}

func tool(pid int, store, source string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], store, source)
	cmd.Env = append(os.Environ(), helperEnv+"="+strconv.Itoa(pid))
	cmd.Stderr = os.Stderr
	return cmd
}

func timeSnap(t *testing.T, pid int, store, source string) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := tool(pid, store, source).Run(); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin)
}

// requireFree requires that all threads of a process soon run, untraced.
func requireFree(t *testing.T, pid int) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		tids, err := procfs.Pid(pid).Tasks()
		if err != nil {
			t.Fatal(err)
		}
		held := 0
		for _, tid := range tids {
			st, err := procfs.Task(pid, tid).Status()
			if err != nil {
				t.Fatal(err)
			}
			if st.TracerPid != 0 || st.State == 't' || st.State == 'T' {
				held++
			}
		}
		if held == 0 {
			return
		}
		if time.Now().After(end) {
			_ = unix.Kill(pid, unix.SIGCONT)
			t.Fatalf("%d threads of pid %d are still held", held, pid)
		}
		time.Sleep(time.Millisecond)
	}
}
