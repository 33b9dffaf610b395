package image

import (
	"os"
	"syscall"
)

// makeHole gives the blocks of a part of a file back (fallocate(2), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE). A file
// system that cannot keeps them.
func makeHole(f *os.File, offset, n int64) {
	const punchHoleKeepSize = 0x02 | 0x01 // linux/falloc.h
	_ = syscall.Fallocate(int(f.Fd()), punchHoleKeepSize, offset, n)
}
