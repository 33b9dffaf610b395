package tracer

import "unsafe"

// addressOf is where the bytes are in memory.
func addressOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }
