package lazy

import (
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/model"
)

// hugeMemory is what of a process is to be of huge pages: userfaultfd brings small ones only.
type hugeMemory struct {
	pidfd int
	areas []model.Range
}

// madvCollapse is MADV_COLLAPSE of include/uapi/asm-generic/mman-common.h (Linux 6.1).
const madvCollapse = 25

// collapse makes huge pages of what was filled, while the processes run: it copies, about a second for a GiB. Where
// that cannot be done, memory that was unmapped meanwhile for example, it stays as it is.
func (s *server) collapse() {
	for _, h := range s.huge {
		for _, a := range h.areas {
			if processMadvise(h.pidfd, a.Start, a.End-a.Start, madvCollapse) == unix.ESRCH {
				break // it has ended
			}
		}
	}
}
