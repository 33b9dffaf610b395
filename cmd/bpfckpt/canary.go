package main

import (
	"fmt"
	"hash/fnv"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// canaryVerb runs a canary, the program that selftest snaps and restores: bpfckpt __canary FILE. It is no verb of the
// table, because it must not start what the command line needs.
const canaryVerb = "__canary"

// canaryStatus is the exit status of a canary that was told to end by SIGTERM.
const canaryStatus = 7

// chain is what a canary keeps in memory and writes line by line: each line depends on all before it, so one that is
// lost, doubled or made from other memory shows.
type chain struct{ n, hash uint64 }

func (c *chain) next() string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %016x", c.n, c.hash)
	c.n, c.hash = c.n+1, h.Sum64()
	return fmt.Sprintf("%d %016x\n", c.n, c.hash)
}

// canary appends a line to the file every few milliseconds until SIGTERM. Two more threads hand the turn around, so
// that there are threads in futex waits and in nanosleep at any moment. It uses no timers of the Go runtime: those rest
// on an epoll descriptor.
func canary(path string) int {
	debug.SetGCPercent(-1) // the collector's helpers use timers; the canary makes next to no garbage
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 1
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	var over atomic.Bool
	go func() { <-end; over.Store(true) }()
	turn, done := make(chan string), make(chan bool)
	go func() {
		runtime.LockOSThread()
		for line := range turn {
			n, err := unix.Write(fd, []byte(line))
			done <- err == nil && n == len(line)
		}
	}()
	var c chain
	for !over.Load() {
		turn <- c.next()
		if !<-done {
			return 1
		}
		nap := unix.NsecToTimespec(2e6)
		_ = unix.Nanosleep(&nap, nil) // shorter after a signal is as good
	}
	return canaryStatus
}

// pythonCanary is the same in Python, for a program that is not ours; SIGTERM ends it with the same status.
const pythonCanary = `
import os, signal, sys, time
out = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
n = h = 0
while not over:
    text = "%d %016x" % (n, h)
    h = 0xcbf29ce484222325
    for c in text.encode():
        h = ((h ^ c) * 0x100000001b3) & 0xffffffffffffffff
    n += 1
    os.write(out, b"%d %016x\n" % (n, h))
    time.sleep(0.002)
sys.exit(7)
`
