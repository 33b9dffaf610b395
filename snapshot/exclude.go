package snapshot

import (
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/procfs"
	"github.com/bpfckpt/bpfckpt/model"
)

// DontDump in Options.Exclude stands for all memory that the program marked with MADV_DONTDUMP (madvise(2)). It has to
// be asked for: programs mark what must not get into a core dump, the keys of OpenSSL's secure heap for example, and
// cannot do without it.
const DontDump = "dontdump"

// dontDumpFlag is the mark in VmFlags (proc_pid_smaps(5)).
const dontDumpFlag = "dd"

// excluder tells which private memory is left out of the image.
type excluder struct {
	dontDump bool
	names    []*regexp.Regexp // of mappings
}

// newExcluder reads Options.Exclude.
func newExcluder(list []string) (excluder, error) {
	var e excluder
	for _, what := range list {
		name := plainName(what)
		switch {
		case what == DontDump:
			e.dontDump = true
		case strings.Trim(name, "*") == "" || name == "[stack]":
			return e, fault.New(fault.BadOption, what,
				"no program runs without that memory, or it is no name of a mapping")
		default:
			parts := strings.Split(name, "*")
			for i := range parts {
				parts[i] = regexp.QuoteMeta(parts[i])
			}
			e.names = append(e.names, regexp.MustCompile("^"+strings.Join(parts, ".*")+"$"))
		}
	}
	return e, nil
}

// plainName turns the name of anonymous memory as /proc/PID/maps has it, "[anon:NAME]", into that of an image,
// "anon:NAME".
func plainName(name string) string {
	if inner, ok := strings.CutPrefix(name, "[anon:"); ok {
		return "anon:" + strings.TrimSuffix(inner, "]")
	}
	return name
}

func (e *excluder) any() bool { return e.dontDump || len(e.names) > 0 }

// named reports whether a name is among those to be left out.
func (e *excluder) named(name string) bool {
	return name != "" && slices.ContainsFunc(e.names,
		func(pattern *regexp.Regexp) bool { return pattern.MatchString(name) })
}

// excludes reports whether the private pages of a mapping are left out. Code never is.
func (e *excluder) excludes(v *model.VMA) bool {
	if v.Shared || v.Prot&unix.PROT_EXEC != 0 || v.Name == "[stack]" {
		return false
	}
	return e.dontDump && v.Has(dontDumpFlag) || e.named(v.Name) || e.named(v.File.Path)
}

// mark notes in the mappings of a process what is left out.
func (e *excluder) mark(p *model.Process) {
	for i := range p.VMAs {
		if v := &p.VMAs[i]; holdsContent(v) && e.excludes(v) {
			v.Excluded = true
		}
	}
}

// before returns what would be left out of a process that runs, so that it need not be copied before the freeze, which
// decides.
func (e *excluder) before(pid int) ([]dirty.Span, error) {
	if !e.any() {
		return nil, nil
	}
	maps, err := procfs.Pid(pid).Smaps()
	if err != nil {
		return nil, err
	}
	var out []dirty.Span
	for i := range maps {
		m := &maps[i]
		v := model.VMA{
			Prot: m.Prot, Shared: m.Shared, Name: plainName(m.Name), Flags: m.Flags,
			File: model.MappedFile{Path: m.Name},
		}
		if e.excludes(&v) {
			out = append(out, dirty.Span{Start: m.Start, End: m.End})
		}
	}
	return out, nil
}
