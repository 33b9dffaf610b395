//go:build amd64 || arm64

package image

import (
	"os"
	"syscall"
)

// startWriteback asks the kernel to begin writing a part of a file to disk, so that the fsync at the end has less to
// wait for (sync_file_range(2), SYNC_FILE_RANGE_WRITE). It promises nothing, and a file system that cannot is no error.
func startWriteback(f *os.File, offset, n int64) {
	const write = 2 // SYNC_FILE_RANGE_WRITE, linux/fs.h
	_ = syscall.SyncFileRange(int(f.Fd()), offset, n, write)
}
