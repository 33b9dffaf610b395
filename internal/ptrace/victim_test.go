package ptrace

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// checkForever keeps goroutines busy with small stacks, large stacks, timers and garbage, until SIGTERM.
func checkForever() {
	var wrong atomic.Int64
	stop := make(chan os.Signal, 1)
	done := make(chan struct{})
	var working sync.WaitGroup
	signal.Notify(stop, unix.SIGTERM)
	for i := range 6 {
		working.Go(func() {
			for round := uint64(0); ; round++ {
				select {
				case <-done:
					return
				default:
				}
				n := int(round*7+uint64(i)*13) % 90
				if deep(n, round) != round+uint64(n)*uint64(n+1)/2 {
					wrong.Add(1)
				}
				if i%2 == 0 {
					time.Sleep(200 * time.Microsecond)
				}
			}
		})
	}
	fmt.Println("ready")
	<-stop
	close(done)
	working.Wait()
	fmt.Println("wrong results:", wrong.Load())
	os.Exit(int(min(wrong.Load(), 1)))
}

// deep uses about a quarter of a kilobyte of stack a level, and checks it on the way back.
//
//go:noinline
func deep(n int, seed uint64) uint64 {
	var pad [24]uint64
	for i := range pad {
		pad[i] = seed + uint64(i*n)
	}
	if n == 0 {
		return seed
	}
	sum := deep(n-1, seed) + uint64(n)
	for i := range pad {
		if pad[i] != seed+uint64(i*n) {
			return 0
		}
	}
	return sum
}

// victim is a running selfcheck program.
type victim struct {
	cmd *exec.Cmd
	out *bufio.Reader
	err bytes.Buffer
}

// startVictim starts testdata/selfcheck.c, which ends with an error if anything of it is changed.
func startVictim(t *testing.T, args ...string) *victim {
	t.Helper()
	return run(t, exec.Command(compiled(t, "selfcheck"), args...))
}

// compiled builds a program of testdata.
func compiled(t *testing.T, name string) string {
	t.Helper()
	bin := filepath.Join("testdata", name) // a machine without a compiler has it built already
	if _, err := os.Stat(bin); err != nil {
		bin = filepath.Join(t.TempDir(), name)
		if out, err := exec.Command("gcc", "-O1", "-pthread", "-o", bin,
			filepath.Join("testdata", name+".c")).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
	}
	return bin
}

func run(t *testing.T, cmd *exec.Cmd) *victim {
	t.Helper()
	v := &victim{cmd: cmd}
	v.cmd.Stderr = &v.err
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.cmd.Process.Kill() })
	v.out = bufio.NewReader(out)
	if line, err := v.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the program says %q, %v", line, err)
	}
	return v
}

// finish ends the program, which then says whether it was disturbed.
func (v *victim) finish(t *testing.T) {
	t.Helper()
	if err := v.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Errorf("the program ended early: %v", err)
	}
	rest, _ := io.ReadAll(v.out)
	if err := v.cmd.Wait(); err != nil {
		t.Fatalf("the program was disturbed: %v\n%s%s", err, v.err.Bytes(), rest)
	}
	t.Logf("rounds of its threads: %s", bytes.TrimSpace(rest))
}
