package fdtable

import "unsafe"

// addressOf is where data starts, for system calls the tests make the way a restored process does.
func addressOf(data []byte) uintptr { return uintptr(unsafe.Pointer(&data[0])) }
