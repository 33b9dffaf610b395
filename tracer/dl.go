package tracer

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/model"
)

// dlProbes are the uprobes on dlopen, dlmopen and dlclose of the libraries that followed processes map: the C library
// or, before glibc 2.34, libdl; with musl the dynamic linker.
type dlProbes struct {
	programs map[string]*ebpf.Program // by symbol
	known    map[fileID]bool          // files that have been looked at
	points   []kstate.Breakpoint
	links    []link.Link
	files    int // that have probes
}

func newDLProbes(ps *probes) *dlProbes {
	return &dlProbes{
		programs: map[string]*ebpf.Program{
			"dlopen": ps.objs.OnDlopen, "dlmopen": ps.objs.OnDlmopen,
			"dlclose": ps.objs.OnDlclose,
		},
		known: map[fileID]bool{},
	}
}

// libraryName reports whether a file may have dlopen: libc.so.6, libc-2.31.so, libdl.so.2, ld-musl-x86_64.so.1,
// libc.musl-x86_64.so.1.
func libraryName(path string) bool {
	base := filepath.Base(path)
	if !strings.Contains(base, ".so") {
		return false
	}
	return slices.ContainsFunc([]string{"libc.", "libc-", "libdl.", "libdl-", "ld-musl-"},
		func(p string) bool { return strings.HasPrefix(base, p) })
}

// look probes a library, if it has not been looked at, and reports whether it was new and had something to probe.
func (d *dlProbes) look(path string, id fileID) (fresh bool) {
	if d.known[id] {
		return false
	}
	err := openCode(path, func(f *os.File) error {
		d.known[id] = true
		fresh = d.attach(f, id)
		return nil
	})
	return err == nil && fresh
}

// attach probes the functions that a library has, and reports whether there are any.
func (d *dlProbes) attach(f *os.File, id fileID) (any bool) {
	ex, err := link.OpenExecutable(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return false
	}
	offsets, err := functions(f, d.programs)
	if err != nil {
		return false
	}
	for symbol, all := range offsets {
		for _, offset := range all {
			l, err := ex.Uprobe(symbol, d.programs[symbol], &link.UprobeOptions{Address: offset})
			if err != nil {
				return any // no uprobes on this kernel, or none on this file
			}
			d.links = append(d.links, l)
			d.points = append(d.points, kstate.Breakpoint{Dev: id.dev, Ino: id.ino, Offset: int64(offset)})
			any = true
		}
	}
	if any {
		d.files++
	}
	return any
}

// functions returns the offsets in an ELF file of the dynamic symbols among names, each once: a symbol may have several
// versions (glibc has kept the dlopen of before 2.34).
func functions(f *os.File, names map[string]*ebpf.Program) (map[string][]uint64, error) {
	file, err := elf.NewFile(f)
	if err != nil {
		return nil, err
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return nil, err
	}
	out := map[string][]uint64{}
	for _, s := range symbols {
		if names[s.Name] == nil || elf.ST_TYPE(s.Info) != elf.STT_FUNC || s.Value == 0 {
			continue
		}
		for _, p := range file.Progs {
			if p.Type != elf.PT_LOAD || s.Value < p.Vaddr || s.Value >= p.Vaddr+p.Filesz {
				continue
			}
			if at := s.Value - p.Vaddr + p.Off; !slices.Contains(out[s.Name], at) {
				out[s.Name] = append(out[s.Name], at)
			}
		}
	}
	return out, nil
}

// Which function an EV_DL record is about (bpf/probe_dl.h).
const (
	dlOpen = 1 + iota
	dlMOpen
	dlClose
)

// applyDL keeps the list of libraries in the order they were loaded.
func (w *Watcher) applyDL(g *group, e *bpf.WatchEvNamed) {
	if g == nil {
		return
	}
	name := cstring(e.Name[:])
	kind := "dlopen"
	switch e.Call.Args[0] {
	case dlMOpen:
		kind = "dlmopen"
	case dlClose:
		kind = "dlclose"
	}
	if kind == "dlclose" {
		if i := slices.IndexFunc(g.libs, func(l model.Library) bool { return sameLibrary(l.Name, name) }); i >= 0 {
			g.libs = slices.Delete(g.libs, i, i+1)
		}
	} else if name != "" {
		g.libs = append(g.libs, model.Library{Name: name, Flags: int(e.Call.Args[1])})
	}
	g.versions.Rest++
	if w.opts.OnEvent != nil {
		w.tell(&e.Call.Head, &Event{Kind: kind, Path: name, Flags: uint32(e.Call.Args[1])})
	}
}

// sameLibrary compares a name given to dlopen with the path the linker found it at.
func sameLibrary(given, found string) bool {
	return given == found || !strings.Contains(given, "/") && filepath.Base(found) == given
}
