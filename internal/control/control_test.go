package control

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// serve runs a server in a directory of the test's.
func serve(t *testing.T, h Handler) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := listen(dir, kindWatch, 42)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("left behind: %v", entries)
		}
	})
	go func() {
		if err := s.Serve(h); err != nil {
			t.Error(err)
		}
	}()
	return dir
}

func connect(t *testing.T, dir string) *Client {
	t.Helper()
	c, found, err := dial(dir, kindWatch, 42)
	if err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestRequestProgressAnswer(t *testing.T) {
	dir := serve(t, func(_ context.Context, req Request, progress func(done, total int64)) (any, error) {
		var o struct{ N int }
		if err := json.Unmarshal(req.Options, &o); err != nil {
			return nil, err
		}
		progress(1, 2)
		progress(2, 2)
		return o.N + 1, nil
	})
	var have int
	var seen []int64
	err := connect(t, dir).Do(t.Context(), OpSnap, map[string]int{"N": 6}, &have, func(done, _ int64) { seen = append(seen, done) })
	if err != nil || have != 7 || len(seen) != 2 {
		t.Errorf("have %d, progress %v, %v", have, seen, err)
	}
	info, err := os.Stat(socketPath(dir, kindWatch, 42))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if pids, err := list(dir, kindWatch); err != nil || len(pids) != 1 || pids[0] != 42 {
		t.Errorf("list %v, %v", pids, err)
	}
	if _, err := listen(dir, kindWatch, 42); !errors.Is(err, &fault.Error{Code: fault.Watched}) {
		t.Errorf("a second watch: %v", err)
	}
}

func TestFaultsKeepTheirCodes(t *testing.T) {
	want := fault.List{fault.New(fault.Freeze, "pid 1", "a").WithRemedy("b"), fault.New(fault.NoRights, "pid 2", "c")}
	dir := serve(t, func(context.Context, Request, func(int64, int64)) (any, error) { return nil, want })
	err := connect(t, dir).Do(t.Context(), OpStatus, nil, nil, nil)
	var have fault.List
	if !errors.As(err, &have) || len(have) != 2 || have[0].Error() != want[0].Error() || have[1].Error() != want[1].Error() {
		t.Errorf("have %v", err)
	}
}

// A client that goes away takes its request with it.
func TestClientGone(t *testing.T) {
	canceled := make(chan struct{})
	started := make(chan struct{})
	dir := serve(t, func(ctx context.Context, _ Request, _ func(int64, int64)) (any, error) {
		close(started)
		<-ctx.Done()
		close(canceled)
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if err := connect(t, dir).Do(ctx, OpSnap, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-canceled
}

// What a dead watch left is removed by whoever finds it.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	s, err := listen(dir, kindWatch, 42)
	if err != nil {
		t.Fatal(err)
	}
	s.listener.Close()
	if _, found, err := dial(dir, kindWatch, 42); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := os.Stat(s.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale socket is still there: %v", err)
	}
}
