package tracer

import (
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/bpfckpt/bpfckpt/bpf"
)

// recordTypes pairs the structures of bpf/abi.h with the Go types that read them.
var recordTypes = map[string]any{
	"rec_head":    bpf.IterRecHead{},
	"process_rec": bpf.IterProcessRec{},
	"thread_rec":  bpf.IterThreadRec{},
	"mm_rec":      bpf.IterMmRec{},
	"actions_rec": bpf.IterActionsRec{},
	"action_rec":  bpf.IterActionRec{},
	"cred_rec":    bpf.IterCredRec{},
	"timer_rec":   bpf.IterTimerRec{},
	"vma_rec":     bpf.IterVmaRec{},
	"mapped_rec":  bpf.IterMappedRec{},
	"fd_rec":      bpf.IterFdRec{},
	"wait_rec":    bpf.IterWaitRec{},
	"inode_rec":   bpf.IterInodeRec{},
	"usage_rec":   bpf.IterUsageRec{},
	"rlimit_rec":  bpf.IterRlimitRec{},
}

// eventTypes pairs those that a watch uses with theirs.
var eventTypes = map[string]any{
	"ev_head":       bpf.WatchEvHead{},
	"vma_state":     bpf.WatchVmaState{},
	"ev_map":        bpf.WatchEvMap{},
	"ev_map_file":   bpf.WatchEvMapFile{},
	"turns_arg":     bpf.WatchTurnsArg{},
	"ev_fd":         bpf.WatchEvFd{},
	"ev_open":       bpf.WatchEvOpen{},
	"ev_action":     bpf.WatchEvAction{},
	"ev_limit":      bpf.WatchEvLimit{},
	"ev_call":       bpf.WatchEvCall{},
	"ev_named":      bpf.WatchEvNamed{},
	"ev_task":       bpf.WatchEvTask{},
	"watched":       bpf.WatchWatched{},
	"watched_mm":    bpf.WatchWatchedMm{},
	"watched_group": bpf.WatchWatchedGroup{},
	"watch_stats":   bpf.WatchWatchStats{},
	"held_rec":      bpf.WatchHeldRec{},
	"inode_rec":     bpf.WatchInodeRec{},
	"action_rec":    bpf.WatchActionRec{},
	"rlimit_rec":    bpf.WatchRlimitRec{},
}

// TestRecordLayout holds every record type against the BTF of the compiled object: sizes, and the offset of each
// member.
func TestRecordLayout(t *testing.T) {
	for name, value := range recordTypes {
		checkLayout(t, loadSpec(t, bpf.LoadIter), name, reflect.TypeOf(value))
	}
	for name, value := range eventTypes {
		checkLayout(t, loadSpec(t, bpf.LoadWatch), name, reflect.TypeOf(value))
	}
}

// TestRecordLayoutComplete finds record types that TestRecordLayout does not know.
func TestRecordLayoutComplete(t *testing.T) {
	iter := loadSpec(t, bpf.LoadIter)
	for typ, err := range loadSpec(t, bpf.LoadWatch).All() {
		if err != nil {
			t.Fatal(err)
		}
		c, ok := typ.(*btf.Struct)
		if !ok || !strings.HasPrefix(c.Name, "ev_") && !strings.HasSuffix(c.Name, "_rec") &&
			!strings.HasPrefix(c.Name, "watch") ||
			c.Name == "cpu_itimer_rec" { // a part of process_rec, not a type in Go
			continue
		}
		var both *btf.Struct
		inIter := recordTypes[c.Name] != nil && iter.TypeByName(c.Name, &both) == nil
		if eventTypes[c.Name] == nil && !inIter {
			t.Errorf("%s has no Go type to be held against", c.Name)
		}
	}
}

// TestRecordSizes shows that records keep one another at multiples of 8, as eachRecord and view need it.
func TestRecordSizes(t *testing.T) {
	for kind, size := range fixedSize {
		if size == 0 || size%8 != 0 {
			t.Errorf("records of kind %d have %d bytes, not a multiple of 8", kind, size)
		}
	}
}

func loadSpec(t *testing.T, load func() (*ebpf.CollectionSpec, error)) *btf.Spec {
	t.Helper()
	coll, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return coll.Types
}

func checkLayout(t *testing.T, spec *btf.Spec, name string, typ reflect.Type) {
	t.Helper()
	var c *btf.Struct
	if err := spec.TypeByName(name, &c); err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if uintptr(c.Size) != typ.Size() {
		t.Errorf("%s has %d bytes in C and %d in Go", name, c.Size, typ.Size())
	}
	fields := map[string]reflect.StructField{}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Name != "_" {
			fields[strings.ToLower(f.Name)] = f
		}
	}
	for _, m := range c.Members {
		goName := strings.ToLower(strings.ReplaceAll(m.Name, "_", ""))
		f, ok := fields[goName]
		if !ok {
			t.Errorf("%s.%s is not in the Go type", name, m.Name)
			continue
		}
		if uintptr(m.Offset.Bytes()) != f.Offset {
			t.Errorf("%s.%s is at %d in C and at %d in Go", name, m.Name, m.Offset.Bytes(), f.Offset)
		}
		delete(fields, goName)
	}
	for _, f := range fields {
		t.Errorf("%s has no member for %s", name, f.Name)
	}
}
