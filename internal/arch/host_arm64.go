package arch

import "os"

// Host is the architecture that this build is for.
var Host = &aarch64

// pages tells whether pages are of a size that this build knows. A kernel is built for 4, 16 or 64 KiB.
func pages() error {
	if os.Getpagesize() != 4096 {
		return Lacks(LargePages)
	}
	return nil
}
