package restore_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/restore"
)

// Bring back the newest image of a directory, attached to our standard streams, and wait for the end of the program.
func ExampleRestore() {
	img, err := image.Open("ckpt-1234")
	if err != nil {
		var f *restore.Error
		if errors.As(err, &f) {
			fmt.Println(f.Code)
		}
		return
	}
	defer img.Close()
	res, err := restore.Restore(context.Background(), img, restore.Options{
		Std:   [3]*os.File{os.Stdin, os.Stdout, os.Stderr},
		PidNS: restore.PidNSAuto,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	status, err := res.Wait(context.Background())
	fmt.Println(status.ExitStatus(), err)
	// Output: E_STORE_NOT_FOUND
}
