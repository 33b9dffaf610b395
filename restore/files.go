package restore

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/buildid"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/plan"
)

// openFiles opens what the tree has mapped and open, after making what has no name. Nothing of it changes a file.
func (r *restorer) openFiles() error {
	r.mapped = newMappedFiles()
	r.onEnd(r.mapped.close)
	if err := r.makeObjects(); err != nil {
		return err
	}
	if err := r.openNamed(); err != nil {
		return err
	}
	for i := range r.st.Processes {
		rec := &r.st.Processes[i]
		if rec.Zombie {
			continue
		}
		for j := range rec.VMAs {
			if key, ok := r.keyOf(&rec.VMAs[j]); ok {
				if err := r.openMapped(key, &rec.VMAs[j].File); err != nil {
					return err
				}
			}
		}
		if err := r.openMapped(exeKey(rec), &rec.Exe); err != nil {
			return err
		}
	}
	if err := r.step("open descriptors"); err != nil {
		return err
	}
	var err error
	r.table, err = fdtable.Rebuild(r.ctx, r.img, fdtable.RebuildOptions{
		Std: r.o.Std, Detach: r.o.Detach, Given: r.o.Given, Verify: r.o.Files == FilesVerify, State: r.st,
		Shmem: func(i int) (*os.File, error) { return r.shmems[i], nil },
		Ghost: func(i int) (*os.File, error) { return r.ghosts[i], nil },
		Temp:  func(i int) (*os.File, error) { return r.temps[i], nil },
	})
	if err != nil {
		return err
	}
	r.onEnd(r.table.Close)
	return nil
}

// checkSame refuses a file that is not, or no longer, the one that the plan was made for: it may have been replaced meanwhile.
func checkSame(f *os.File, want *image.MappedFile, changing bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fault.New(fault.RestoreStep, want.Path, "%w", err)
	}
	have := host.File(&st)
	if want.BuildID != "" && have.MTime != want.MTime {
		have.BuildID = buildid.Of(f)
	}
	if err := plan.CheckMapped(want, have, changing); err != nil {
		return err
	}
	return nil
}

// commitFiles does the last things to files, which cannot be taken back.
func (r *restorer) commitFiles() error {
	if err := r.step("commit descriptors"); err != nil {
		return err
	}
	if err := r.setTimes(); err != nil {
		return err
	}
	notes, err := r.table.Commit()
	r.notes = append(r.notes, notes...)
	return err
}
