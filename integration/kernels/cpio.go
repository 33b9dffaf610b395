package kernels

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes the "newc" archive format the kernel unpacks as initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type cpioWriter struct {
	w   io.Writer
	ino uint32
	off int64
	err error
}

// POSIX file type bits of c_mode (inode(7)).
const (
	cpioDir     = 0o040000
	cpioFile    = 0o100000
	cpioSymlink = 0o120000
	cpioChar    = 0o020000
)

// dir adds a directory.
func (c *cpioWriter) dir(name string, perm fs.FileMode) {
	c.header(name, cpioDir|uint32(perm.Perm()), 0, 0, 0)
}

// symlink adds a symbolic link.
func (c *cpioWriter) symlink(name, target string) {
	c.header(name, cpioSymlink|0o777, int64(len(target)), 0, 0)
	c.write([]byte(target))
	c.pad()
}

// char adds a character device.
func (c *cpioWriter) char(name string, perm fs.FileMode, major, minor uint32) {
	c.header(name, cpioChar|uint32(perm.Perm()), 0, major, minor)
}

// file adds a regular file of exactly size bytes.
func (c *cpioWriter) file(name string, perm fs.FileMode, size int64, r io.Reader) {
	c.header(name, cpioFile|uint32(perm.Perm()), size, 0, 0)
	if c.err != nil {
		return
	}
	n, err := io.CopyN(c.w, r, size)
	c.off += n
	if err != nil {
		c.err = fmt.Errorf("pack %s: %w", name, err)
	}
	c.pad()
}

// close writes the trailer and returns the first error of all.
func (c *cpioWriter) close() error {
	c.header("TRAILER!!!", 0, 0, 0, 0)
	return c.err
}

func (c *cpioWriter) header(name string, mode uint32, size int64, rmajor, rminor uint32) {
	if size > 0xffffffff && c.err == nil {
		c.err = fmt.Errorf("pack %s: %d bytes are too many for an initramfs", name, size)
	}
	c.ino++
	// ino, mode, uid, gid, nlink, mtime, filesize, major, minor, rmajor, rminor, namesize, check
	h := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.ino, mode, 0, 0, 1, 0, uint32(size), 0, 0, rmajor, rminor, len(name)+1, 0)
	c.write([]byte(h))
	c.write(append([]byte(name), 0))
	c.pad()
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.off += int64(n)
	c.err = err
}

// pad fills up to a multiple of four bytes: the header with the name, and the content, both end on one.
func (c *cpioWriter) pad() {
	c.write(make([]byte, (4-c.off%4)%4))
}
