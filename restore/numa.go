package restore

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// bindMemory sets the NUMA policy of a mapping with mbind(2) from its text, for example "bind=static:0-1".
func bindMemory(b *batch, v *model.VMA) {
	mode, mask, bits, err := policyArguments(v.NUMA)
	if err != nil {
		b.err = fault.New(fault.RestoreState, fmt.Sprintf("mapping %#x-%#x", v.Start, v.End), "%w", err)
		return
	}
	b.call(fmt.Sprintf("bind %#x-%#x to nodes", v.Start, v.End), unix.SYS_MBIND, v.Start, v.End-v.Start, mode, mask,
		bits, 0)
}

// setPolicy gives a thread its memory policy with set_mempolicy(2); "" is the default one, whatever we have.
func setPolicy(b *batch, t *model.Thread) {
	if t.NUMA == "" {
		b.callWant(except(unix.ENOSYS), "take the default memory policy", unix.SYS_SET_MEMPOLICY, 0, 0, 0)
		return
	}
	mode, mask, bits, err := policyArguments(t.NUMA)
	if err != nil {
		b.err = fault.New(fault.RestoreState, fmt.Sprintf("thread %d", t.Tid), "%w", err)
		return
	}
	b.call("set the memory policy", unix.SYS_SET_MEMPOLICY, mode, mask, bits)
}

// policyArguments are what mbind(2) and set_mempolicy(2) take for a policy.
func policyArguments(text string) (mode uint64, mask any, bits int, err error) {
	mode, nodes, err := plan.ParsePolicy(text)
	if err != nil || len(nodes) == 0 {
		return mode, 0, 0, err
	}
	return mode, inBytes(nodes), len(nodes)*8 + 1, nil
}
