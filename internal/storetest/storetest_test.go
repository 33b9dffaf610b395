package storetest_test

import (
	"path/filepath"
	"testing"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/storetest"
)

func TestDirectory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) image.Store { return image.Dir(filepath.Join(t.TempDir(), "a", "store")) })
}

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) image.Store { return storetest.NewMemory() })
}
