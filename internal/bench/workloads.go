package bench

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/bench/subject"
)

// Sizes are the dimensions of the standard workloads. The zero value of each is its default.
type Sizes struct {
	Memory      int64 // bytes of the large process, 1 GiB
	WriteRate   int   // pages a second that it writes in the workload "write", 1,000
	Mappings    int   // 10,000
	Descriptors int   // 1,000
	Threads     int   // 200
}

// small is the memory of the process that holds little else, bytes.
const small = 1 << 20

func (s Sizes) withDefaults() Sizes {
	if s.Memory == 0 {
		s.Memory = 1 << 30
	}
	if s.WriteRate == 0 {
		s.WriteRate = 1000
	}
	if s.Mappings == 0 {
		s.Mappings = 10000
	}
	if s.Descriptors == 0 {
		s.Descriptors = 1000
	}
	if s.Threads == 0 {
		s.Threads = 200
	}
	return s
}

// workload is a process to save and bring back.
type workload struct {
	key     string // as --only names it
	title   string
	args    func(dir string) []string
	bytes   int64   // of memory worth holding against a copy, 0 for none
	lazy    bool    // of restores only: the memory comes later
	freeze  float64 // targets, ms; 0 for none
	restore float64
}

// Workloads that only snapshots are measured on.
const (
	incremental = "incremental"
	storm       = "storm"
)

// pageSize is that of x86-64's small pages, bytes.
const pageSize = 4096

// stormShare is how much of its memory the process of the workload "storm" writes each second.
const stormShare = 0.3

// WorkloadKeys are the names of the workloads, in their order.
func WorkloadKeys() []string {
	return []string{"small", "memory", "lazy", "write", incremental, storm, "mappings", "descriptors", "threads"}
}

// ErrNoWorkload means that a name is not among WorkloadKeys.
var ErrNoWorkload = errors.New("no such process")

// workloads returns the chosen ones, all of them if only is empty. An unknown name is an error.
func workloads(s Sizes, only []string) ([]workload, error) {
	s = s.withDefaults()
	all := []workload{
		{key: "small", title: "small process, 1 MiB", args: fixed(subject.Memory(small)), freeze: 2, restore: 15},
		{
			key: "memory", title: quantity(float64(s.Memory), "bytes") + " of memory",
			args: fixed(subject.Memory(s.Memory)), bytes: s.Memory,
		},
		{
			key: "lazy", title: quantity(float64(s.Memory), "bytes") + " of memory that comes later",
			args: fixed(subject.Memory(s.Memory)), lazy: true, restore: 40,
		},
		{
			key: "write", title: fmt.Sprintf("%s, writing %d pages/s", quantity(float64(s.Memory), "bytes"),
				s.WriteRate),
			args: fixed(subject.Writing(s.Memory, s.WriteRate)), bytes: s.Memory, freeze: 10,
		},
		{
			key: incremental, title: "1% of " + quantity(float64(s.Memory), "bytes") + " written since the last",
			args: fixed(subject.Writing(s.Memory, s.WriteRate)), freeze: 10,
		},
		{
			key: storm, title: fmt.Sprintf("%s, %.0f%% of it rewritten each second",
				quantity(float64(s.Memory), "bytes"), 100*stormShare),
			args:   fixed(subject.Writing(s.Memory, int(stormShare*float64(s.Memory/pageSize)))),
			freeze: float64(largestFreeze / time.Millisecond),
		},
		{
			key: "mappings", title: fmt.Sprintf("%d mappings", s.Mappings), args: fixed(subject.Mappings(s.Mappings)),
			freeze: 25,
		},
		{key: "descriptors", title: fmt.Sprintf("%d descriptors", s.Descriptors), args: func(dir string) []string {
			return subject.Descriptors(s.Descriptors, filepath.Join(dir, dataFile))
		}, freeze: 10},
		{
			key: "threads", title: fmt.Sprintf("%d threads", s.Threads), args: fixed(subject.Threads(s.Threads)),
			freeze: 20,
		},
	}
	for _, o := range only {
		if !slices.Contains(WorkloadKeys(), o) {
			return nil, fmt.Errorf("%w: %q; there are %s", ErrNoWorkload, o, strings.Join(WorkloadKeys(), ", "))
		}
	}
	return slices.DeleteFunc(all, func(w workload) bool { return len(only) > 0 && !slices.Contains(only, w.key) }), nil
}

func fixed(args []string) func(string) []string { return func(string) []string { return args } }

// dataFile is the file whose descriptions the workload "descriptors" holds.
const dataFile = "data"

// stage is the directory in which a run's programs, files and images live. It must stay while images of them are used.
type stage struct {
	dir, program string
}

// newStage makes one below parent ("" means the system's temporary directory).
func newStage(parent string) (*stage, error) {
	dir, err := os.MkdirTemp(parent, "bpfckpt-bench-")
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir}
	if s.program, err = subject.InstallSubject(dir); err != nil {
		s.remove()
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, dataFile), make([]byte, 1<<20), 0o600); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

func (s *stage) remove() { _ = os.RemoveAll(s.dir) } // a leftover in the temporary directory harms nobody
