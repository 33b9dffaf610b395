package tracer

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/bpf"
	"github.com/bpfckpt/bpfckpt/internal/arch"
)

// TestVerifier loads every program on this kernel, each by itself, and prints how many instructions the verifier went
// through for it.
func TestVerifier(t *testing.T) {
	for _, object := range []struct {
		name string
		load func() (*ebpf.CollectionSpec, error)
	}{{"iter", bpf.LoadIter}, {"watch", bpf.LoadWatch}, {"fexit", bpf.LoadFexit}, {"unit", loadUnit}} {
		t.Run(object.name, func(t *testing.T) {
			spec, err := object.load()
			if err != nil {
				t.Fatal(err)
			}
			if object.name == "watch" {
				if err := setTurnPath(spec); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
				verify(t, spec, name)
			}
		})
	}
}

// verifierLimit is BPF_COMPLEXITY_LIMIT_INSNS of kernel/bpf/verifier.c.
const verifierLimit = 1_000_000

func verify(t *testing.T, spec *ebpf.CollectionSpec, name string) {
	t.Helper()
	one := spec.Copy()
	program := one.Programs[name]
	one.Programs = map[string]*ebpf.ProgramSpec{name: program}
	fexit := program.AttachType == ebpf.AttachTraceFExit
	if fexit {
		program.AttachTo = arch.Host.SyscallFunc + "close" // of the same type as all the others
	}
	coll, err := ebpf.NewCollection(one)
	if fexit && errors.Is(err, unix.EPERM) && !guest() {
		t.Skip("this kernel lets no program attach to functions; the kernel matrix has one that does")
	}
	if err != nil {
		t.Errorf("%s: %+v", name, err)
		return
	}
	defer coll.Close()
	info, err := coll.Programs[name].Info()
	if err != nil {
		t.Error(err)
		return
	}
	if n, ok := info.VerifiedInstructions(); ok { // since Linux 5.16
		t.Logf("%-18s %6d instructions", name, n)
		if n > verifierLimit/2 {
			t.Errorf("%s comes near the limit of %d", name, verifierLimit)
		}
	}
}

// TestDecisions runs on given calls what the probes decide about a call.
func TestDecisions(t *testing.T) {
	var objs unitObjects
	if err := loadUnitObjects(&objs, nil); err != nil {
		t.Fatal(err)
	}
	defer objs.Close()
	message := func(control byte) []byte { // struct msghdr
		b := make([]byte, 56)
		b[40] = control // msg_controllen
		return b
	}
	with, without := message(24), message(0)
	const (
		efault                     = -14
		fionbio, fionclex, fioclex = 0x5421, 0x5450, 0x5451 // include/uapi/asm-generic/ioctls.h
	)
	for _, c := range []struct {
		what string
		prog *ebpf.Program
		args [6]uint64
		nr   uint64
		ret  int64
		want int64
	}{
		{"F_DUPFD makes the slot it returns", objs.UnitFcntl, [6]uint64{3, unix.F_DUPFD, 10}, 0, 12, 12},
		{"F_DUPFD_CLOEXEC too", objs.UnitFcntl, [6]uint64{3, unix.F_DUPFD_CLOEXEC, 10}, 0, 11, 11},
		{"F_SETFD changes the slot given", objs.UnitFcntl, [6]uint64{3, unix.F_SETFD, 1}, 0, 0, 3},
		{"of a descriptor only the low half counts", objs.UnitFcntl, [6]uint64{7<<32 | 3, unix.F_SETFL, 1}, 0, 0, 3},
		{"F_GETFL changes nothing", objs.UnitFcntl, [6]uint64{3, unix.F_GETFL}, 0, 2, -1},
		{"FIONBIO changes the slot given", objs.UnitIoctl, [6]uint64{5, fionbio}, 0, 0, 5},
		{"FIOCLEX too", objs.UnitIoctl, [6]uint64{6, fioclex}, 0, 0, 6},
		{"of a command only the low half counts", objs.UnitIoctl, [6]uint64{6, 1<<32 | fionclex}, 0, 0, 6},
		{"TCGETS changes nothing", objs.UnitIoctl, [6]uint64{5, unix.TCGETS}, 0, 0, -1},
		{"mmap is where it returns", objs.UnitPlace, [6]uint64{0, 4096}, unix.SYS_MMAP, 0x7f0000001000, 0x7f0000001000},
		{"a failed mmap is nowhere", objs.UnitPlace, [6]uint64{0x1000, 4096}, unix.SYS_MMAP, efault, 0},
		{"mprotect is where it was asked for", objs.UnitPlace, [6]uint64{0x5000, 4096}, unix.SYS_MPROTECT, 0, 0x5000},
		{"madvise too", objs.UnitPlace, [6]uint64{0x6000, 4096}, unix.SYS_MADVISE, 0, 0x6000},
		{"brk is below its end", objs.UnitPlace, [6]uint64{0x9000}, unix.SYS_BRK, 0x9000, 0x8fff},
		{
			"a message with control data may bring descriptors", objs.UnitReceived,
			[6]uint64{3, addressOf(with)},
			0, 1,
			1,
		},
		{"one without does not", objs.UnitReceived, [6]uint64{3, addressOf(without)}, 0, 1, 0},
	} {
		arg := unitUnitArg{Nr: c.nr, Ret: c.ret}
		arg.Call.Args = c.args
		if _, err := c.prog.Run(&ebpf.RunOptions{Context: arg, ContextOut: &arg}); err != nil {
			t.Errorf("%s: %v", c.what, err)
		} else if arg.Out != c.want {
			t.Errorf("%s: %d instead of %d", c.what, arg.Out, c.want)
		}
	}
	runtime.KeepAlive(with)
	runtime.KeepAlive(without)
}

// TestMayRecord holds what every system call is asked against the table of what is done about it.
func TestMayRecord(t *testing.T) {
	var objs unitObjects
	if err := loadUnitObjects(&objs, nil); err != nil {
		t.Fatal(err)
	}
	defer objs.Close()
	spec, err := bpf.LoadWatch()
	if err != nil {
		t.Fatal(err)
	}
	var kinds [512]uint8
	if err := spec.Variables["call_kinds"].Get(&kinds); err != nil {
		t.Fatal(err)
	}
	calls := 0
	for nr := range uint64(1024) {
		want := int64(0)
		if nr < uint64(len(kinds)) && kinds[nr] != uint8(bpf.WatchCallKindCALL_NONE) {
			want = 1
			calls++
		}
		arg := unitUnitArg{Nr: nr}
		if _, err := objs.UnitMayRecord.Run(&ebpf.RunOptions{Context: arg, ContextOut: &arg}); err != nil {
			t.Fatal(err)
		}
		if arg.Out != want {
			t.Errorf("call %d: %d instead of %d", nr, arg.Out, want)
		}
	}
	if want := 76 + len(oldNames); calls != want {
		t.Errorf("%d calls are of interest, and not %d", calls, want)
	}
}
