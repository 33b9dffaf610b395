package image_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

// sumOf is a sum over the content of a heap.
func sumOf(m content) string {
	h := sha256.Sum256(heapOf(m))
	return hex.EncodeToString(h[:])
}

// churn takes images, squashes, removes and prunes at random until it is killed. It tells of each image when it is
// published, and of each removal before it begins. An image has the sum of its heap in the state.
func churn(dir string) {
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for {
		if err := churnOnce(dir, rng); err != nil {
			fmt.Println("failed", err)
			return
		}
	}
}

func churnOnce(dir string, rng *rand.Rand) error {
	nodes, err := image.Tree(dir)
	if err != nil {
		return err
	}
	any := nodes[rng.IntN(len(nodes))].ID
	switch n := rng.IntN(10); {
	case n < 6 || len(nodes) < 4:
		info, err := grow(dir, any, rng)
		fmt.Println("published", info.ID)
		return err
	case n < 8:
		fmt.Println("removing", any)
		info, _, err := image.Squash(context.Background(), dir+"@"+any, image.SquashOptions{Workers: 1})
		fmt.Println("published", info.ID)
		return err
	case n == 8:
		fmt.Println("removing", any)
		_, err = image.Remove(dir, any)
	default:
		o := image.PruneOptions{Keep: 3, Try: true}
		res, err := image.Prune(dir, o)
		if err != nil {
			return err
		}
		fmt.Println("removing", strings.Join(res.Removed, " "))
		o.Try = false
		if _, err := image.Prune(dir, o); err != nil {
			return err
		}
	}
	return err
}

// grow takes an image on top of another one.
func grow(dir, on string, rng *rand.Rand) (image.Info, error) {
	r, err := image.Open(dir + "@" + on)
	if err != nil {
		return image.Info{}, err
	}
	m, err := load(r, imagetest.Memory, 1)
	if err != nil {
		return image.Info{}, err
	}
	_ = r.Close()
	dirty := mutate(rng, m)
	w, err := image.Create(dir, image.WriteOptions{Parent: on, Level: image.LevelFast, Workers: 1})
	if err != nil {
		return image.Info{}, err
	}
	defer w.Abort()
	for i := range uint64(heapPages) {
		addr := imagetest.HeapAddr + i*page
		if p, ok := m[addr]; !dirty[addr] {
			err = w.Keep(imagetest.Memory, addr, 1)
		} else if ok {
			err = w.Write(imagetest.Memory, addr, []byte(p+strings.Repeat("\x00", page-len(p))))
		}
		if err != nil {
			return image.Info{}, err
		}
	}
	st := started()
	st.Processes[0].Args = []string{sumOf(m)}
	return w.Commit(st)
}

// However often and whenever the tools that change a store are killed, every image that was published and not removed
// on purpose is there and whole, the head too, and the next one carries on.
func TestKilledAtAnyMoment(t *testing.T) {
	dir := filepath.Join(tmpfs(t, ""), "store")
	st := started()
	m := expect(imagetest.HeapAddr, pattern(1, heapPages))
	st.Processes[0].Args = []string{sumOf(m)}
	first := next(t, dir, image.WriteOptions{Level: image.LevelFast}, st, m, nil)
	there := map[string]bool{first.ID: true}
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	for i := range rounds {
		cmd, out := helper(t, "churn", dir, 0)
		lines := bufio.NewReader(out)
		time.Sleep(time.Duration(i%20)*3*time.Millisecond + time.Duration(rand.IntN(8000))*time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(lines)
		_ = cmd.Wait()
		maybe := map[string]bool{}
		for line := range strings.Lines(string(text)) {
			what, ids, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			for _, id := range strings.Fields(ids) {
				switch {
				case what == "published" && strings.HasSuffix(line, "\n"):
					there[id] = true
				case what == "removing":
					maybe[id] = true
				default:
					t.Fatalf("%q", line)
				}
			}
		}
		there = survived(t, dir, there, maybe)
	}
	t.Logf("%d images at the end", len(there))
	// On a slow machine all were killed before they had done anything; whoever takes the next image removes what they
	// left.
	infos, err := image.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := grow(dir, infos[len(infos)-1].ID, rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Prune(dir, image.PruneOptions{Keep: 0}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := image.Squash(t.Context(), dir, image.SquashOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, filepath.Join(dir, "images")); len(got) != 1+1+4 {
		t.Errorf("left: %v", got)
	}
	if got := tree(t, filepath.Join(dir, "tmp")); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

// survived checks a store whose user was killed, and returns what is in it.
func survived(t *testing.T, dir string, there, maybe map[string]bool) map[string]bool {
	t.Helper()
	infos, err := image.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := map[string]bool{}
	for _, info := range infos {
		now[info.ID] = true
		r := open(t, dir+"@"+info.ID)
		if err := r.Verify(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		got, err := load(r, imagetest.Memory, 1)
		if err != nil {
			t.Fatal(err)
		}
		if want := r.State().Processes[0].Args[0]; sumOf(got) != want {
			t.Fatalf("image %s has other pages than were written", info.ID)
		}
		_ = r.Close()
		for _, id := range info.Replaces { // a squash that was published and could not say so
			if there[id] && maybe[id] {
				delete(there, id)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(there)) {
		if !now[id] && !maybe[id] {
			t.Fatalf("image %s is lost", id)
		}
	}
	_ = open(t, dir).Close()
	return now
}
