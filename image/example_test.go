package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/imagetest"
	"github.com/bpfckpt/bpfckpt/model"
)

func ExampleCreate() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()

	w, err := image.Create(filepath.Join(dir, "store"), image.WriteOptions{Name: "first", Level: image.LevelFast})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer w.Abort() // harmless after Commit

	memory := make([]byte, 8*model.PageSize) // one page of text and seven of zeros
	copy(memory, "hello")
	if err := w.Write(imagetest.Memory, imagetest.HeapAddr, memory); err != nil {
		fmt.Println(err)
		return
	}
	info, err := w.Commit(imagetest.State()) // a real one comes from package snapshot
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(info.Name, info.PagesWritten, info.PagesZero)
	// Output: first 1 7
}

func ExampleOpen() {
	r, err := image.Open("testdata/golden@golden")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = r.Close() }()

	p := r.State().Processes[0]
	fmt.Println(p.Args[0], "has", len(p.Threads), "threads and", len(p.VMAs), "mappings")
	for _, run := range r.Runs(p.Space) {
		fmt.Printf("%#x %d pages, zero: %t\n", run.Addr, run.Pages, run.Kind == image.Zero)
	}
	// Output:
	// prog has 2 threads and 4 mappings
	// 0x1000000 256 pages, zero: false
	// 0x7ffc00000000 1 pages, zero: false
	// 0x7ffc00001000 2 pages, zero: true
}

func ExampleReader_Load() {
	r, err := image.Open("testdata/golden")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = r.Close() }()

	pages := 0
	// One worker: the function is called from one goroutine at a time.
	err = r.Load(context.Background(), imagetest.Memory, 1, func(_ uint64, data []byte) error {
		pages += len(data) / model.PageSize
		return nil
	})
	fmt.Println(pages, err)
	// Output: 257 <nil>
}

func ExampleError() {
	_, err := image.Open("nowhere")
	var f *image.Error
	if errors.As(err, &f) {
		fmt.Println(f.Code, f.Object)
	}
	// Output: E_STORE_NOT_FOUND nowhere
}
