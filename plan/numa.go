package plan

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// policies are the names of numa_maps(5) (mpol_to_str in mm/mempolicy.c) and their numbers
// (include/uapi/linux/mempolicy.h).
var policies = map[string]uint64{
	"default": 0, "prefer": 1, "bind": 2, "interleave": 3, "local": 4, "prefer (many)": 5, "weighted interleave": 6,
}

// Mode flags, which numa_maps shows as "=static" and "=relative".
var policyFlags = map[string]uint64{"static": 1 << 15, "relative": 1 << 14, "balancing": 1 << 13}

// ParsePolicy reads the NUMA policy of a mapping from its text, for example "bind=static:0-1": the mode and the mask of
// nodes of mbind(2), little-endian words, nil for a policy without nodes.
func ParsePolicy(text string) (mode uint64, nodes []byte, err error) {
	head, list, _ := strings.Cut(text, ":")
	name, flags, _ := strings.Cut(head, "=")
	mode, ok := policies[name]
	if !ok {
		return 0, nil, fmt.Errorf("unknown NUMA policy %q", text)
	}
	for _, f := range strings.FieldsFunc(flags, func(c rune) bool { return c == '|' || c == '=' }) {
		bit, ok := policyFlags[f]
		if !ok {
			return 0, nil, fmt.Errorf("unknown flag %q of NUMA policy %q", f, text)
		}
		mode |= bit
	}
	if list == "" {
		return mode, nil, nil
	}
	const most = 1024 // MAX_NUMNODES of x86-64
	mask, err := ParseMask(list, most)
	if err != nil {
		return 0, nil, fmt.Errorf("nodes of NUMA policy %q: %w", text, err)
	}
	for _, w := range append(mask, make([]uint64, most/64-len(mask))...) {
		nodes = binary.LittleEndian.AppendUint64(nodes, w)
	}
	return mode, nodes, nil
}

// ParseMask reads a list of numbers as the kernel prints those of nodes and processors, for example "0-3,8"
// (lib/bitmap-str.c), as a mask, low word first. They are below most.
func ParseMask(list string, most int) ([]uint64, error) {
	var mask []uint64
	for _, part := range strings.Split(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		lo, err1 := strconv.Atoi(first)
		hi, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil || lo < 0 || hi < lo || hi >= most {
			return nil, fmt.Errorf("%q is no list of numbers below %d", list, most)
		}
		for n := lo; n <= hi; n++ {
			for len(mask) <= n/64 {
				mask = append(mask, 0)
			}
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, nil
}
