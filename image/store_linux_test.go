package image_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
)

// These tests need root, for mounts and another user, as do most of the project's.

// tmpfs mounts a file system of its own.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	noise := pattern(1, 2)[:2*page]
	// From no room for anything to almost enough: whatever file is the one that does not fit, nothing stays.
	for kib := 4; kib < 64; kib += 4 {
		dir := tmpfs(t, fmt.Sprintf("size=%dk", kib))
		w, err := image.Create(dir, image.WriteOptions{Workers: 1})
		if err == nil {
			for i := 0; i < 4 && err == nil; i++ {
				err = w.Write(imagetest.Memory, imagetest.HeapAddr+uint64(i*2*page), noise)
			}
			if err == nil {
				_, err = w.Commit(imagetest.State())
			}
			w.Abort()
		}
		if err == nil && kib > 32 {
			continue // it fits
		}
		wantCode(t, err, fault.StoreFull)
		if got := tree(t, dir); len(got) != 1 {
			t.Errorf("%d KiB: left: %v", kib, got)
		}
	}
}

func TestFullInodes(t *testing.T) {
	for n := 2; n < 13; n++ {
		dir := tmpfs(t, fmt.Sprintf("nr_inodes=%d", n))
		w, err := image.Create(dir, image.WriteOptions{Workers: 1})
		if err == nil {
			_, err = w.Commit(imagetest.State())
			w.Abort()
		}
		if err == nil && n > 10 {
			continue
		}
		wantCode(t, err, fault.StoreFull)
		if got := tree(t, dir); len(got) != 1 {
			t.Errorf("%d inodes: left: %v", n, got)
		}
	}
}

func TestReadOnly(t *testing.T) {
	dir := tmpfs(t, "")
	save(t, filepath.Join(dir, "store"), image.WriteOptions{}, pattern(1, 3))
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"store", "new"} {
		_, err := image.Create(filepath.Join(dir, name), image.WriteOptions{})
		wantCode(t, err, fault.StoreRights)
	}
	if err := open(t, filepath.Join(dir, "store")).Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// helper runs this test binary again as a helper of the given kind.
func helper(t *testing.T, kind, dir string, uid uint32) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "IMAGE_TEST_HELPER="+kind, "IMAGE_TEST_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uid, Gid: uid},
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// TestMain lets the test binary be a helper.
func TestMain(m *testing.M) {
	dir := os.Getenv("IMAGE_TEST_DIR")
	switch os.Getenv("IMAGE_TEST_HELPER") {
	case "create":
		_, err := image.Create(dir, image.WriteOptions{})
		fmt.Println(err)
	case "open":
		_, err := image.Open(dir)
		fmt.Println(err)
	case "write":
		writeForever(dir)
	case "churn":
		churn(dir)
	default:
		os.Exit(m.Run())
	}
}

// writeForever makes images until it is killed; it prints a line when the first has begun.
func writeForever(dir string) {
	heap := pattern(1, 256)
	for i := 0; ; i++ {
		w, err := image.Create(dir, image.WriteOptions{Level: image.LevelFast})
		if i == 0 {
			fmt.Println("begun")
		}
		if err == nil {
			err = w.Write(imagetest.Memory, imagetest.HeapAddr, heap)
		}
		if err == nil {
			_, err = w.Commit(imagetest.State())
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
}

func TestOtherUser(t *testing.T) {
	// The test's own temporary directories are closed to others, and so is the binary in go test's.
	parent, err := os.MkdirTemp("", "image-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(parent, "image.test")
	if err := os.WriteFile(bin, self, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func(old string) func() { return func() { os.Args[0] = old } }(os.Args[0]))
	os.Args[0] = bin
	dir := filepath.Join(parent, "store")
	save(t, dir, image.WriteOptions{}, pattern(1, 3))
	before := tree(t, parent)
	for _, kind := range []string{"create", "open"} {
		cmd, out := helper(t, kind, dir, 65534)
		b, _ := io.ReadAll(out)
		if err := cmd.Wait(); err != nil || !strings.HasPrefix(string(b), string(fault.StoreRights)) {
			t.Errorf("%s: %s, %v", kind, b, err)
		}
	}
	cmd, out := helper(t, "create", filepath.Join(parent, "new"), 65534)
	b, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(string(b), string(fault.StoreRights)) {
		t.Errorf("new: %s, %v", b, err)
	}
	if got := tree(t, parent); len(got) != len(before) {
		t.Errorf("left: %v", got)
	}
}

// A writer killed at any moment leaves images that are whole, and nothing that the next writer does not remove.
func TestKilledWriter(t *testing.T) {
	dir := filepath.Join(tmpfs(t, ""), "store")
	for i := range 25 {
		cmd, out := helper(t, "write", dir, 0)
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * 150 * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		infos, err := image.List(dir)
		if err != nil && i > 0 { // at first there may be no image yet
			t.Fatal(err)
		}
		for _, info := range infos {
			if err := open(t, dir+"@"+info.ID).Verify(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	info := save(t, dir, image.WriteOptions{}, pattern(1, 3))
	if got := tree(t, filepath.Join(dir, "tmp")); len(got) != 1 {
		t.Errorf("left: %v", got)
	}
	if got := open(t, dir).Info().ID; got != info.ID {
		t.Errorf("the head is %s, not %s", got, info.ID)
	}
}
