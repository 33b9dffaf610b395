package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/bpfckpt/bpfckpt/model"
)

// recordKind is one kind of records. Its version is that of the newest field it has (the tag "since" of the field), and
// a record has the oldest version that tells all it says.
type recordKind struct {
	name   string
	many   bool // there is a record for each object, else one
	skip   bool // a reader that does not understand it can do without; there may be none
	packed bool // else the payload is JSON
	shape  *shape
	encode func(st *model.State, add func(version uint32, payload []byte)) error
	decode func(st *model.State, payload []byte) (needs uint32, err error)
}

// version is the newest that this release understands.
func (k *recordKind) version() uint32 { return k.shape.newest }

// recordKinds is all kinds in the order in which a state has them. There is always a record of the last one, so that no
// record can be cut off unnoticed. It is made when it is first needed: that takes longer than to read a small image.
var recordKinds = sync.OnceValue(func() []recordKind {
	kinds := []recordKind{
		one("kernel", func(st *model.State) *model.Kernel { return &st.Kernel }),
		treeKind(),
		factsKind(),
		objectsOf("shmem", func(st *model.State) *[]model.Shmem { return &st.Shmems }),
		objectsOf("ghost", func(st *model.State) *[]model.UnlinkedFile { return &st.Unlinked }),
		objectsOf("named", func(st *model.State) *[]model.UnlinkedFile { return &st.Named }),
		pipeKind(),
		objectsOf("terminal", func(st *model.State) *[]model.Terminal { return &st.Terminals }),
		processKind(),
		lists("mappings", func(p *model.Process) *[]model.VMA { return &p.VMAs }),
		lists("descriptors", func(p *model.Process) *[]model.FD { return &p.FDs }),
		lists("threads", func(p *model.Process) *[]model.Thread { return &p.Threads }),
	}
	kinds = append(kinds, fdKinds()...)
	return append(kinds, filesKind())
})

// objects is a kind whose payloads are JSON of what get returns, and what set takes.
func objects[T any](name string, get func(*model.State) []*T, set func(*model.State, *T)) recordKind {
	k := recordKind{name: name, shape: newShape(reflect.TypeFor[T]())}
	k.encode = func(st *model.State, add func(uint32, []byte)) error {
		for _, v := range get(st) {
			b, err := encodeJSON(v, v)
			if err != nil {
				return err
			}
			add(k.shape.needed(v), b)
		}
		return nil
	}
	k.decode = decodeObject(k.shape, set)
	return k
}

// decodeObject decodes the JSON of a value.
func decodeObject[T any](sh *shape, set func(*model.State, *T)) func(*model.State, []byte) (uint32, error) {
	return func(st *model.State, payload []byte) (uint32, error) {
		v := new(T)
		if err := decodeJSON(payload, v, sh); err != nil {
			return 0, err
		}
		set(st, v)
		return sh.needed(v), nil
	}
}

// one is a kind of which there is one object.
func one[T any](name string, at func(*model.State) *T) recordKind {
	return objects(name, func(st *model.State) []*T { return []*T{at(st)} }, func(st *model.State, v *T) { *at(st) = *v })
}

// objectsOf is a kind of which there is a list of objects.
func objectsOf[T any](name string, at func(*model.State) *[]T) recordKind {
	k := objects(name, func(st *model.State) []*T { return pointers(*at(st)) },
		func(st *model.State, v *T) { *at(st) = append(*at(st), *v) })
	k.many = true
	return k
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// treeKind is what there is of a tree beside its processes.
func treeKind() recordKind {
	type tree struct {
		Root       int   `json:"root"`
		Leaderless []int `json:"leaderless,omitempty"`
	}
	return objects("tree", func(st *model.State) []*tree { return []*tree{{st.Root, st.Leaderless}} },
		func(st *model.State, t *tree) { st.Root, st.Leaderless = t.Root, t.Leaderless })
}

// factsKind is the facts, which explain a refusal only: who does not understand them restores without.
func factsKind() recordKind {
	k := objects("facts", func(st *model.State) []*[]model.Fact {
		if len(st.Facts) == 0 {
			return nil
		}
		return []*[]model.Fact{&st.Facts}
	}, func(st *model.State, f *[]model.Fact) { st.Facts = *f })
	k.skip = true
	return k
}

// pipeKind is the pipes without the content that is a space.
func pipeKind() recordKind {
	k := objectsOf("pipe", func(st *model.State) *[]model.Pipe { return &st.Pipes })
	inner := k.encode
	k.encode = func(st *model.State, add func(uint32, []byte)) error {
		pipes := slices.Clone(st.Pipes)
		for i := range pipes {
			if pipes[i].Space != 0 {
				pipes[i].Data = nil
			}
		}
		return inner(&model.State{Pipes: pipes}, add)
	}
	return k
}

// processKind is the processes without what they have in thousands.
func processKind() recordKind {
	k := objectsOf("process", func(st *model.State) *[]model.Process { return &st.Processes })
	k.shape.fields = slices.DeleteFunc(k.shape.fields, func(f shapeField) bool {
		return f.name == "vmas" || f.name == "fds" || f.name == "threads"
	})
	k.shape.count()
	// The fields of the outer struct hide those of the process.
	type process struct {
		*model.Process
		VMAs    *int `json:"vmas,omitempty"`
		FDs     *int `json:"fds,omitempty"`
		Threads *int `json:"threads,omitempty"`
	}
	k.encode = func(st *model.State, add func(uint32, []byte)) error {
		for i := range st.Processes {
			p := st.Processes[i]
			p.VMAs, p.FDs, p.Threads = nil, nil, nil
			b, err := encodeJSON(&p, process{Process: &p})
			if err != nil {
				return err
			}
			add(k.shape.needed(&p), b)
		}
		return nil
	}
	return k
}

// packed is a kind of which there is one record, the packed form of what get returns.
func packed[T any](name string, get func(*model.State) *T, set func(*model.State, *T) error) recordKind {
	k := recordKind{name: name, packed: true, shape: newShape(reflect.TypeFor[T]())}
	k.encode = func(st *model.State, add func(uint32, []byte)) error {
		v := get(st)
		add(k.shape.needed(v), pack(k.shape, v))
		return nil
	}
	k.decode = func(st *model.State, payload []byte) (uint32, error) {
		v := new(T)
		if err := unpack(k.shape, payload, v); err != nil {
			return 0, err
		}
		return k.shape.needed(v), set(st, v)
	}
	return k
}

// lists is a kind of which every process has a list: its record has those of all processes, in their order.
func lists[T any](name string, at func(*model.Process) *[]T) recordKind {
	return packed(name, func(st *model.State) *[][]T {
		all := make([][]T, len(st.Processes))
		for i := range st.Processes {
			all[i] = *at(&st.Processes[i])
		}
		return &all
	}, func(st *model.State, all *[][]T) error {
		if len(*all) != len(st.Processes) {
			return fmt.Errorf("the lists of %d processes, of %d", len(*all), len(st.Processes))
		}
		for i := range st.Processes {
			*at(&st.Processes[i]) = (*all)[i]
		}
		return nil
	})
}

// encodeJSON returns the JSON of a value whose strings v leads to.
func encodeJSON(v, value any) ([]byte, error) {
	strings, changed := reflect.ValueOf(v), false
	mapStrings(strings, func(s string) string {
		e := escapeText(s)
		changed = changed || e != s
		return e
	})
	if changed {
		defer mapStrings(strings, unescapeText)
	}
	return json.Marshal(value)
}

// decodeJSON undoes encodeJSON. v points to a zero value of the shape.
func decodeJSON(b []byte, v any, sh *shape) error {
	if err := strictJSONAs(b, v, sh); err != nil {
		return err
	}
	if bytes.Contains(b, escapeMark) {
		mapStrings(reflect.ValueOf(v), unescapeText)
	}
	return nil
}
