// Package sigs reads siginfo_t, the 128 bytes that describe a queued signal (sigaction(2),
// include/uapi/asm-generic/siginfo.h).
package sigs

import "encoding/binary"

// Offsets into siginfo_t on 64-bit machines.
const (
	offCode    = 8
	offTimerID = 16
	siTimer    = -2 // SI_TIMER
)

// Number returns si_signo; info has 128 bytes.
func Number[T ~[]byte](info T) int { return int(binary.LittleEndian.Uint32(info)) }

// OfTimer reports that one of the signals was sent by the POSIX timer with the given id.
func OfTimer[T ~[]byte](infos []T, id int) bool {
	for _, info := range infos {
		if int32(binary.LittleEndian.Uint32(info[offCode:])) == siTimer &&
			int(int32(binary.LittleEndian.Uint32(info[offTimerID:]))) == id {
			return true
		}
	}
	return false
}

const (
	size   = 128
	killed = 1 << (9 - 1) // SIGKILL, which is for us no more than for the program
)

// Complete adds to queued signals those of a set that are pending without being queued. When a user has as many queued
// as RLIMIT_SIGPENDING allows, the kernel keeps of a signal no more than that it came, and whoever takes it is told that
// process 0 sent it (collect_signal, kernel/signal.c).
func Complete[T ~[]byte](infos []T, set uint64) []T {
	set &^= killed
	for _, info := range infos {
		set &^= 1 << (Number(info) - 1)
	}
	for number := uint32(1); set != 0; number, set = number+1, set>>1 {
		if set&1 != 0 {
			infos = append(infos, binary.LittleEndian.AppendUint32(make(T, 0, size), number)[:size])
		}
	}
	return infos
}
