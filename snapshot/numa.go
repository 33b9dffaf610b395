package snapshot

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// addPolicies adds the memory policies of threads (set_mempolicy(2)) that have one. The kernel tells them in numa_maps
// only, as those of mappings that have none of their own.
func addPolicies(processes []model.Process) error {
	for i := range processes {
		p := &processes[i]
		for j := range p.Threads {
			t := &p.Threads[j]
			if t.NUMA != kstate.SomePolicy {
				continue
			}
			var err error
			if t.NUMA, err = threadPolicy(t.Tid, p.VMAs); err != nil {
				return err
			}
		}
	}
	return nil
}

// policyBytes is little enough for the kernel to stop after a record of numa_maps or two: it walks the page tables of
// each mapping that it tells of.
const policyBytes = 64

// threadPolicy returns the policy that a thread gives to the first mapping that has none of its own, "" for the default
// and where there is no NUMA.
func threadPolicy(tid int, vmas []model.VMA) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/numa_maps", tid)) // of a thread, too
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil // a kernel without NUMA
		}
		return "", fmt.Errorf("read the memory policy of thread %d: %w", tid, err)
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, policyBytes)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return "", nil //nolint:nilerr // nothing else is mapped, or it has ended
		}
		list, err := procfs.ParseNUMAMaps(bytes.NewReader(line))
		if err != nil || len(list) == 0 {
			return "", err
		}
		i, found := slices.BinarySearchFunc(vmas, list[0].Start,
			func(v model.VMA, start uint64) int { return cmp.Compare(v.Start, start) })
		if !found || vmas[i].NUMA != "" {
			continue
		}
		if list[0].Policy == "default" {
			return "", nil
		}
		return list[0].Policy, nil
	}
}
