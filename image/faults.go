package image

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/bpfckpt/bpfckpt/internal/beneath"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// readFault turns an error on reading a file of an image into a fault about it. A fault stays what it is.
func readFault(path string, err error) error {
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, beneath.ErrKind):
		return fault.New(fault.ImageMissing, path, "%w", cause(err))
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fault.New(fault.ImageTruncated, path, "the file ends early")
	case errors.Is(err, fs.ErrPermission):
		return fault.New(fault.StoreRights, path, "%w", cause(err)).
			WithRemedy("run as the user who took the snapshot, or as root")
	}
	return fault.New(fault.ImageRead, path, "%w", cause(err))
}

// intruder returns the error about an image of which something was put there by others, or is a link: then the store is
// not changed, for nobody knows what else is so. Damage is no reason.
func intruder(broken map[string]error) error {
	for _, err := range broken {
		if errors.Is(err, &fault.Error{Code: fault.StoreForeign}) || errors.Is(err, beneath.ErrKind) {
			return err
		}
	}
	return nil
}

// writeFault turns an error on writing to a store into a fault about it. A fault stays what it is.
func writeFault(path string, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	code := fault.StoreIO
	for _, e := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, e) {
			code = fault.StoreFull
		}
	}
	for _, e := range []error{syscall.EACCES, syscall.EPERM, syscall.EROFS} {
		if errors.Is(err, e) {
			code = fault.StoreRights
		}
	}
	if errors.Is(err, syscall.ENOTDIR) {
		code = fault.StoreNotStore
	}
	if errors.Is(err, beneath.ErrKind) {
		code = fault.StoreForeign
	}
	return fault.New(code, path, "%w", cause(err))
}

// cause strips the path from an error of package os: the fault's object has it.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
