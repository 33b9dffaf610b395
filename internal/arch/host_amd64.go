package arch

// Host is the architecture that this build is for.
var Host = &x86

// pages tells whether pages are of a size that this build knows: they are of 4 KiB.
func pages() error { return nil }
