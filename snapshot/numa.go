package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
)

// addPolicies adds the memory policies of threads (set_mempolicy(2)) that have one. The kernel tells them in numa_maps
// only, as those of mappings that have none of their own.
func addPolicies(processes []image.Process) error {
	for i := range processes {
		p := &processes[i]
		if p.Zombie || len(p.VMAs) == 0 {
			continue
		}
		// What the sources have read of the vDSO, which nobody binds, is that of the process.
		kernels := slices.IndexFunc(p.VMAs,
			func(v image.VMA) bool { return v.Kind == image.VMAVDSO || v.Kind == image.VMAVVar })
		for j := range p.Threads {
			t := &p.Threads[j]
			if t.NUMA != kstate.SomePolicy {
				continue
			}
			first, err := firstPolicy(t.Tid)
			if err != nil {
				return err
			}
			t.NUMA = first
			// all were read, so that those of mappings are known, too
			if j == 0 && kernels >= 0 && p.VMAs[0].NUMA != "" {
				t.NUMA = p.VMAs[kernels].NUMA
			}
		}
		followPolicy(p)
	}
	return nil
}

// followPolicy leaves to mappings only what they have of their own.
func followPolicy(p *image.Process) {
	if len(p.Threads) == 0 || p.Threads[0].NUMA == "" {
		return
	}
	for i := range p.VMAs {
		if p.VMAs[i].NUMA == p.Threads[0].NUMA {
			p.VMAs[i].NUMA = ""
		}
	}
}

// policyBytes is enough for the head of a record of numa_maps and little enough for the kernel to stop after the first
// one: it walks the page tables of each mapping that it tells of.
const policyBytes = 64

// firstPolicy returns the policy that a thread gives to its first mapping, "" for the default and where there is no
// NUMA.
func firstPolicy(tid int) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/numa_maps", tid)) // of a thread, too
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil // a kernel without NUMA
		}
		return "", fmt.Errorf("read the memory policy of thread %d: %w", tid, err)
	}
	defer f.Close()
	buf := make([]byte, policyBytes)
	n, err := unix.Read(int(f.Fd()), buf)
	if err != nil || n == 0 {
		return "", nil //nolint:nilerr // nothing is mapped, or it has ended
	}
	line, _, _ := bytes.Cut(buf[:n], []byte("\n"))
	list, err := procfs.ParseNUMAMaps(bytes.NewReader(append(line, '\n')))
	if err != nil {
		return "", err
	}
	if len(list) == 0 || list[0].Policy == "default" {
		return "", nil
	}
	return list[0].Policy, nil
}
