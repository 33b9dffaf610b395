//go:build !linux && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package image

import (
	"errors"
	"os"
)

// tryLock fails: without flock(2) a store can be read, but not written.
func tryLock(*os.File) (bool, error) { return false, errors.ErrUnsupported }

// share does nothing: who cannot lock cannot make holes either.
func share(*os.File) {}
