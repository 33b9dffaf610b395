// Package imagetest has what tests of several packages need to make images: a small state that is valid in every field.
package imagetest

import (
	"encoding/binary"

	"github.com/bpfckpt/bpfckpt/model"
)

// Addresses and spaces of State.
const (
	TextAddr  = 0x400000       // 4 pages of a file
	HeapAddr  = 0x1000000      // 256 pages, anonymous
	StackAddr = 0x7ffc00000000 // 33 pages, anonymous
	Memory    = model.Space(1) // of the process
	Shmem     = model.Space(2) // 4 pages, State.Shmems[0]
	Unlinked  = model.Space(3) // 5000 bytes, State.Unlinked[0]
	Pid       = 1234
)

// State returns the state of a process with two threads, a heap, an open file, a pipe, a terminal, a memfd and an
// unlinked file. The caller may change it.
func State() *model.State {
	st := &model.State{
		Kernel: model.Kernel{
			Release: "6.18.0", Machine: "x86_64", BootID: "00000000-0000-0000-0000-000000000000", Monotonic: 1e9,
			Boottime: 1e9,
			Realtime: 17e17, XFeatures: 7, CPUModel: "a CPU",
		},
		Root: Pid,
		Files: []model.File{
			{ID: 1, Kind: "tty", Flags: 2, Mode: 0o20620, Rdev: 0x8800, Path: "/dev/pts/0", Term: 1, Std: 1},
			{
				ID: 2, Kind: "regular", Flags: 2, Pos: 17, Mode: 0o100600, Dev: 1, Ino: 3, Path: "/tmp/gone (deleted)",
				Size: 5000, Unlinked: 1,
			},
			{ID: 3, Kind: "pipe", Mode: 0o10600, Path: "pipe:[77]", Pipe: 1},
			{ID: 4, Kind: "memfd", Flags: 2, Mode: 0o100777, Path: "/memfd:m (deleted)", Shmem: 1},
		},
		Shmems: []model.Shmem{{
			Space: Shmem, Kind: "memfd", Name: "m", Dev: 1, Ino: 2, Size: 4 * model.PageSize,
			Mode: 0o100777,
		}},
		Unlinked:  []model.UnlinkedFile{{Space: Unlinked, Path: "/tmp/gone", Dev: 1, Ino: 3, Size: 5000, Mode: 0o100600}},
		Pipes:     []model.Pipe{{Ino: 77, Capacity: 65536, Data: []byte("in flight")}},
		Terminals: []model.Terminal{{Rdev: 0x8800, Path: "/dev/pts/0", Termios: make([]byte, 44), Rows: 24, Cols: 80}},
	}
	st.Processes = []model.Process{process()}
	return st
}

// process is the one process of State.
func process() model.Process {
	exe := model.MappedFile{Path: "/usr/bin/prog", Dev: 1, Ino: 4, Size: 16384, MTime: 16e17}
	info := make(model.SigInfo, 128)
	binary.LittleEndian.PutUint32(info, 10)
	return model.Process{
		Pid: Pid, PPid: 1, Pgid: Pid, Sid: Pid, ExitSignal: 17, Space: Memory, Exe: exe, Args: []string{"prog", "-v"},
		MM: model.MM{
			StartCode: TextAddr, EndCode: TextAddr + 0x4000, StartBrk: HeapAddr, Brk: HeapAddr + 0x100000,
			StartStack: StackAddr + 0x20000, Auxv: make([]byte, 16), Dumpable: 1,
		},
		VMAs: []model.VMA{
			{
				Start: TextAddr, End: TextAddr + 0x4000, Prot: 5, Kind: model.VMAFile, File: exe,
				Flags: []string{"ex", "mr", "mw", "me", "rd"},
			},
			{
				Start: HeapAddr, End: HeapAddr + 0x100000, Prot: 3, Kind: model.VMAAnon, Name: "[heap]",
				Flags: []string{"rd", "wr"},
			},
			{
				Start: 0x7f0000000000, End: 0x7f0000004000, Prot: 3, Shared: true, Kind: model.VMAShmem, Shmem: 1,
				Flags: []string{"rd", "sh", "wr"},
			},
			{
				Start: StackAddr, End: StackAddr + 0x21000, Prot: 3, Kind: model.VMAAnon, Name: "[stack]",
				Flags: []string{"gd", "rd", "wr"},
			},
		},
		FDs: []model.FD{
			{Num: 0, File: 1},
			{Num: 1, File: 1},
			{Num: 3, File: 2, Cloexec: true},
			{Num: 4, File: 3},
			{Num: 5, File: 4},
		},
		Actions: []model.SigAction{{
			Signal: 10, Handler: TextAddr + 0x100, Flags: 0x04000000,
			Restorer: TextAddr + 0x200,
		}},
		Pending: []model.SigInfo{info},
		Timers:  []model.PosixTimer{{ID: 0, Clock: 1, Notify: 4, Signo: 34, Tid: Pid + 1, Left: 5e8, Interval: 1e9}},
		Cwd:     "/", Root: "/", Umask: 0o22,
		Threads: []model.Thread{thread(Pid), thread(Pid + 1)},
	}
}

// thread is a thread of State.
func thread(tid int) model.Thread {
	return model.Thread{
		Tid: tid, Comm: "prog", Regs: make([]byte, 216), XState: make([]byte, 832), AltStack: model.AltStack{Flags: 2},
		Affinity: []uint64{3}, TimerSlack: 50000, Creds: model.Creds{Groups: []uint32{0, 27}},
	}
}
