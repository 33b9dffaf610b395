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
