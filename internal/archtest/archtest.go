// Package archtest holds the tests of the shape of the source tree: which package imports which, where package unsafe
// may be used, and what must not be in the repository. It has no code of its own.
package archtest
