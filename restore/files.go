package restore

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/fdtable"
	"github.com/bpfckpt/bpfckpt/internal/buildid"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/host"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// openMappedOf opens a mapped file of a process, or its executable if index is -1.
func (r *restorer) openMappedOf(rec *model.Process, index int) error {
	if index < 0 {
		return r.openMapped(exeKey(rec), &rec.Exe)
	}
	if key, ok := plan.KeyOf(r.st, &rec.VMAs[index]); ok {
		return r.openMapped(key, &rec.VMAs[index].File)
	}
	return nil
}

// openDescription opens State.Files[i] again; the last one brings with it what is to be said of all.
func (r *restorer) openDescription(i int) error {
	if err := r.j.step("open descriptors"); err != nil {
		return err
	}
	if err := r.rebuilder().Open(i); err != nil || i < len(r.st.Files)-1 {
		return err
	}
	return r.rebuilder().Done()
}

// rebuilder opens descriptions. It is made when the first one, or their table, is needed.
func (r *restorer) rebuilder() *fdtable.Rebuilder {
	if r.rebuild == nil {
		r.rebuild = fdtable.Begin(r.ctx, r.img, fdtable.RebuildOptions{
			Moment: r.clocks.moment,
			Std:    r.o.Std, Detach: r.o.Detach, Given: r.o.Given, Verify: r.o.Files == FilesVerify, State: r.st,
			Shmem: func(i int) (*os.File, error) { return r.objects.shmems[i], nil },
			Ghost: func(i int) (*os.File, error) { return r.objects.ghosts[i], nil },
			Temp:  func(i int) (*os.File, error) { return r.objects.temps[i], nil },
		})
		r.j.onEnd(r.rebuild.Table().Close)
	}
	return r.rebuild
}

// checkSame refuses a file that is not, or no longer, the one that the plan was made for: it may have been replaced
// meanwhile.
func checkSame(f *os.File, want *model.MappedFile, changing bool) error {
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
	if err := r.j.step("commit descriptors"); err != nil {
		return err
	}
	if err := r.objects.setTimes(); err != nil {
		return err
	}
	notes, err := r.rebuilder().Table().Commit()
	r.j.notes = append(r.j.notes, notes...)
	return err
}
