package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procid"
)

// self is the identity of this process.
func self(t *testing.T) procid.ID {
	t.Helper()
	id, err := identity(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// serve runs a server about this process in a directory of the test's.
func serve(t *testing.T, h Handler) (dir string) {
	t.Helper()
	dir = t.TempDir()
	s, err := listen(dir, kindWatch, self(t))
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

func client(t *testing.T, dir string) *Client {
	t.Helper()
	c, found, err := dial(dir, kindWatch, self(t))
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
	err := client(t, dir).Do(t.Context(), OpSnap, map[string]int{"N": 6}, &have,
		func(done, _ int64) { seen = append(seen, done) })
	if err != nil || have != 7 || len(seen) != 2 {
		t.Errorf("have %d, progress %v, %v", have, seen, err)
	}
	info, err := os.Stat(socketPath(dir, kindWatch, self(t)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	all, err := list(dir, kindWatch)
	if err != nil || len(all) != 1 || all[0].Pid != os.Getpid() || all[0].Client.Peer() != os.Getpid() {
		t.Errorf("list %v, %v", all, err)
	}
	for _, f := range all {
		f.Client.Close()
	}
	for _, id := range self(t).Near() {
		if _, err := listen(dir, kindWatch, id); !errors.Is(err, &fault.Error{Code: fault.Watched}) {
			t.Errorf("a second watch: %v", err)
		}
	}
}

func TestFaultsKeepTheirCodes(t *testing.T) {
	want := fault.List{fault.New(fault.Freeze, "pid 1", "a").WithRemedy("b"), fault.New(fault.NoRights, "pid 2", "c")}
	dir := serve(t, func(context.Context, Request, func(int64, int64)) (any, error) { return nil, want })
	err := client(t, dir).Do(t.Context(), OpStatus, nil, nil, nil)
	var have fault.List
	if !errors.As(err, &have) || len(have) != 2 || have[0].Error() != want[0].Error() ||
		have[1].Error() != want[1].Error() {
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
	if err := client(t, dir).Do(ctx, OpSnap, nil, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-canceled
}

// Of many that want to be the watch of a process at once, one is, and it can be reached.
func TestOneOfMany(t *testing.T) {
	dir := t.TempDir()
	const many = 16
	servers := make(chan *Server, many)
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			s, err := listen(dir, kindWatch, self(t))
			switch {
			case err == nil:
				servers <- s
			case !errors.Is(err, &fault.Error{Code: fault.Watched}):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(servers) != 1 {
		t.Fatalf("%d of %d are the watch", len(servers), many)
	}
	s := <-servers
	c, found, err := dial(dir, kindWatch, self(t))
	if err != nil || !found {
		t.Errorf("found %v, %v", found, err)
	} else {
		c.Close()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// die ends a server as kill -9 would: the kernel closes everything and removes nothing.
func (s *Server) die() {
	s.listener.Close()
	s.lock.f.Close()
}

// What a dead watch left is no watch. The next one takes its place, and what is about a process that has ended goes.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	id, dead := self(t), self(t)
	dead.Start -= 1000
	for _, id := range []procid.ID{id, dead} {
		s, err := listen(dir, kindWatch, id)
		if err != nil {
			t.Fatal(err)
		}
		s.linkFormer(formerPath(dir, kindWatch, id.Pid))
		s.die()
	}
	former, err := net.ListenUnix("unix", &net.UnixAddr{Name: formerPath(dir, kindWatch, 4711), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	former.SetUnlinkOnClose(false)
	former.Close()
	if _, found, err := dial(dir, kindWatch, id); found || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	s, err := listen(dir, kindWatch, id)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), kindWatch+"-"+id.String()+".") {
			t.Errorf("%s is still there", e.Name())
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// speak sends a line to a socket and returns the answer.
func speak(t *testing.T, path, line string) (r Reply) {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(conn).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Requests of other versions, or about another process, are refused, but for a newer command that ends the watch. The
// command of the time before there were versions finds the watch by a link.
func TestVersions(t *testing.T) {
	dir := t.TempDir()
	s, err := listen(dir, kindWatch, self(t))
	if err != nil {
		t.Fatal(err)
	}
	former := formerPath(dir, kindWatch, 4711)
	s.linkFormer(former)
	go func() { _ = s.Serve(func(context.Context, Request, func(int64, int64)) (any, error) { return 1, nil }) }()
	for line, served := range map[string]bool{
		`{"op":"snap"}`: false, `{"op":"end"}`: false, // of the time before there were versions
		fmt.Sprintf(`{"op":"snap","version":%d}`, Version):                       true,
		fmt.Sprintf(`{"op":"snap","version":%d,"target":%q}`, Version, s.id):     true,
		fmt.Sprintf(`{"op":"snap","version":%d,"target":"1-2-3"}`, Version):      false,
		fmt.Sprintf(`{"op":"snap","version":%d,"more":1}`, Version+1):            false,
		fmt.Sprintf(`{"op":"end","version":%d,"target":"elsewhere"}`, Version+1): true,
	} {
		r := speak(t, former, line)
		refused := len(r.Faults) == 1 && r.Faults[0].Code == fault.ControlSocket
		if r.Version != Version || served == refused || served != (r.Result != nil) {
			t.Errorf("%s: %+v", line, r)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A watch of the time before there were versions is found, and takes what it knows; one that answers with an earlier
// version is told from others.
func TestEarlierVersions(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{formerPath(dir, kindWatch, 4711), socketPath(dir, kindWatch, self(t))} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				var req Request
				if json.NewDecoder(conn).Decode(&req) == nil {
					fmt.Fprintln(conn, `{"result":{"op":"`+req.Op+`"}}`)
				}
				conn.Close()
			}
		}()
	}
	var result struct{ Op string }
	for _, op := range []string{OpStatus, OpEnd, OpSnap} {
		c, found, err := dialFormer(formerPath(dir, kindWatch, 4711))
		if err != nil || !found || !c.Former() {
			t.Fatalf("found %v, %v", found, err)
		}
		err = c.Do(t.Context(), op, nil, &result, nil)
		if errors.Is(err, ErrOlder) != (op == OpSnap) || op != OpSnap && result.Op != op {
			t.Errorf("%s: %q, %v", op, result.Op, err)
		}
		c.Close()
	}
	err := client(t, dir).Do(t.Context(), OpStatus, nil, &result, nil)
	if !errors.Is(err, ErrOlder) || !errors.Is(err, &fault.Error{Code: fault.ControlSocket}) {
		t.Errorf("an earlier version: %v", err)
	}
	all, err := list(dir, kindWatch)
	if err != nil || len(all) != 2 {
		t.Errorf("list %v, %v", all, err)
	}
	for _, f := range all {
		f.Client.Close()
	}
}

// A watch of a later version refuses what it is asked, in its own words, and is told from others.
func TestLaterVersion(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", socketPath(dir, kindWatch, self(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			var req Request
			if json.NewDecoder(conn).Decode(&req) == nil {
				fmt.Fprintf(conn, `{"version":%d,"faults":[{"code":%q,"cause":"no %s"}]}`+"\n", Version+1,
					fault.ControlSocket, req.Op)
			}
			conn.Close()
		}
	}()
	for _, op := range []string{OpStatus, OpSnap, OpEnd} {
		err := client(t, dir).Do(t.Context(), op, nil, nil, nil)
		if !errors.Is(err, ErrNewer) || errors.Is(err, ErrOlder) ||
			!strings.Contains(err.Error(), string(fault.ControlSocket)+": no "+op) {
			t.Errorf("%s: %v", op, err)
		}
	}
}

// A lock has one holder at a time, though each removes the file when it is done.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holders, taken := make(chan struct{}, 1), 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for n := 0; n < 50; {
				l, err := takeLock(path)
				if errors.Is(err, errLocked) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case holders <- struct{}{}:
				default:
					t.Error("two hold it")
				}
				if taken, n = taken+1, n+1; !locked(path) {
					t.Error("it does not seem to be locked")
				}
				<-holders
				l.release()
			}
		})
	}
	all.Wait()
	if taken != 400 || locked(path) {
		t.Errorf("taken %d times; still locked: %v", taken, locked(path))
	}
}
