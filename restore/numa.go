package restore

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/plan"
)

// bindMemory sets the NUMA policy of a mapping with mbind(2) from its text, for example "bind=static:0-1".
func bindMemory(b *batch, v *image.VMA) {
	mode, nodes, err := plan.ParsePolicy(v.NUMA)
	if err != nil {
		b.err = fault.New(fault.RestoreState, fmt.Sprintf("mapping %#x-%#x", v.Start, v.End), "%w", err)
		return
	}
	mask, bits := any(0), 0
	if len(nodes) > 0 {
		mask, bits = inBytes(nodes), len(nodes)*8+1
	}
	b.call(fmt.Sprintf("bind %#x-%#x to nodes", v.Start, v.End), unix.SYS_MBIND, v.Start, v.End-v.Start, mode, mask, bits, 0)
}
