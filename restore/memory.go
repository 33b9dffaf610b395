package restore

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/ptrace"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// memory is the page contents of processes.
type memory struct {
	content  content
	bequests *bequests
	later    *laterPages // nil if all come at once
}

// fill copies the page contents of a process into its mappings, and remembers what the kernel would clear when threads
// are made.
func (m *memory) fill(p *process) error {
	if err := m.write(p); err != nil {
		return err
	}
	return p.rememberCriticalSections()
}

func (m *memory) write(p *process) error {
	if err := p.j.step("fill memory"); err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", p.pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open memory of %s: %w", p.object(), err)
	}
	defer mem.Close()
	f := filler{p: p, mem: mem, fd: -1}
	runs := m.content.img.Runs(p.rec.Space)
	if err := f.zero(runs); err != nil {
		return err
	}
	blocks := hugeBlocks(p.rec, runs, hugeSize())
	if m.later != nil {
		return m.later.fill(p, runs, blocks, &f)
	}
	if err := f.openFill(runs); err != nil {
		return err
	}
	defer f.close()
	missing := model.Subtract(outside(blocks), m.bequests.inPlace(p))
	if err := m.content.load(p.rec.Space, missing, f.write); err != nil {
		return err
	}
	return m.fillHuge(p, &f, blocks)
}

// filler writes to the memory of one process. Its methods may be called concurrently.
type filler struct {
	p   *process
	mem *os.File // /proc/PID/mem, which heeds no protection of private mappings

	fd    int           // a userfaultfd, -1 for none
	areas []model.Range // mappings registered with it, ascending
}

// write puts data at addr, mapping by mapping: through the userfaultfd if it is registered there, with
// process_vm_writev(2) where the mapping can be written, /proc/PID/mem where not.
func (f *filler) write(addr uint64, data []byte) error {
	for len(data) > 0 {
		v := f.vmaAt(addr)
		if v == nil {
			return fault.New(fault.RestoreState, f.p.object(), "the image has content at %#x, where nothing is mapped",
				addr)
		}
		n := min(uint64(len(data)), v.End-addr)
		var err error
		if f.fills(v) {
			err = f.fill(addr, data[:n])
		} else if plan.FirstProt(v)&unix.PROT_WRITE != 0 {
			_, err = ptrace.WriteMemory(f.p.pid, []ptrace.Range{{Addr: addr, Len: int(n)}}, data[:n])
		} else {
			_, err = f.mem.WriteAt(data[:n], int64(addr))
		}
		if err != nil {
			return fmt.Errorf("write memory of %s at %#x: %w", f.p.object(), addr, err)
		}
		addr, data = addr+n, data[n:]
	}
	return nil
}

func (f *filler) vmaAt(addr uint64) *model.VMA {
	list := f.p.rec.VMAs
	i, _ := slices.BinarySearchFunc(list, addr, func(v model.VMA, a uint64) int {
		if v.End <= a {
			return -1
		}
		return 1
	})
	if i == len(list) || list[i].Start > addr {
		return nil
	}
	return &list[i]
}

// zero writes the pages that became zero in mappings of files, where an untouched page would show the file.
func (f *filler) zero(runs []image.Run) error {
	var zeros [64 * pageSize]byte
	for _, run := range runs {
		if run.Kind != image.Zero {
			continue
		}
		for at, end := run.Addr, run.Addr+run.Pages*pageSize; at < end; {
			v := f.vmaAt(at)
			if v == nil {
				return fault.New(fault.RestoreState, f.p.object(),
					"the image has zeros at %#x, where nothing is mapped", at)
			}
			stop := min(end, v.End)
			for v.Kind != model.VMAAnon && at < stop {
				n := min(uint64(len(zeros)), stop-at)
				if err := f.write(at, zeros[:n]); err != nil {
					return err
				}
				at += n
			}
			at = stop
		}
	}
	return nil
}
