package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

func ExampleSnap() {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	res, err := snapshot.Snap(context.Background(), cmd.Process.Pid, snapshot.Options{
		Dir: dir, Name: "first", Compress: image.LevelFast,
	})
	var e *snapshot.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code, "about", e.Object, "because", e.Cause, "so", e.Advice())
		return
	}
	fmt.Println(len(res.Pids), "process in image", res.Name)
	fmt.Println("stood still:", res.FreezeUS > 0)
	// Output:
	// 1 process in image first
	// stood still: true
}

func ExampleCheck() {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()

	report, err := snapshot.Check(context.Background(), cmd.Process.Pid, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, b := range report.Blockers {
		fmt.Println(b)
	}
	fmt.Println(len(report.Blockers), "blockers")
	// Output: 0 blockers
}

// Save two programs at one moment: both stand still before the memory of either is copied, and there are two images or
// none.
func ExampleBegin() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	var both []*snapshot.Transaction
	for _, name := range []string{"one", "two"} {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			return
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		t, err := snapshot.Begin(cmd.Process.Pid, snapshot.Options{Dir: filepath.Join(dir, name)})
		if err != nil {
			fmt.Println(err)
			return
		}
		defer t.Abort()
		both = append(both, t)
	}
	for _, phase := range []func(*snapshot.Transaction, context.Context) error{
		(*snapshot.Transaction).Prepare, (*snapshot.Transaction).Freeze, (*snapshot.Transaction).Capture,
	} {
		for _, t := range both {
			if err := phase(t, context.Background()); err != nil {
				fmt.Println(err) // Abort lets both run on
				return
			}
		}
	}
	for _, t := range both {
		res, err := t.Commit(context.Background())
		fmt.Println(filepath.Base(res.Dir), len(res.Pids), err)
	}
	// Output:
	// one 1 <nil>
	// two 1 <nil>
}
