// Package bpf holds the BPF programs: their C source, the objects compiled from it, and the Go bindings and record
// types that bpf2go derives (`go generate` in the root; building needs no clang). Package tracer is its only user.
package bpf
