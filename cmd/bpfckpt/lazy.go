package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
)

// startLazy starts the server of restore --lazy. Like the canary it is no verb of the table: nobody types it.
func startLazy(ref string, detached bool) (*lazy.Client, error) {
	report := os.Stderr
	if detached {
		report = nil // nobody may be there any more
	}
	server, err := lazy.Start([]string{"/proc/self/exe", lazy.ServeVerb}, ref, report)
	if err != nil {
		return nil, fault.New(fault.RestoreStep, "restore --lazy", "%w", err)
	}
	return server, nil
}

// lazySocket is the descriptor on which the server is asked.
const lazySocket = 3

// lazyMain is the server, and what becomes of its guard.
func lazyMain(verb string, args []string) int {
	debug.SetGCPercent(-1) // a process waits until we are ready; Serve lets the collector in when it runs
	// Executed through a link, we would be called "exe". Not by the command's name either: who kills that means the
	// command, not a process's memory.
	_ = os.WriteFile("/proc/self/comm", []byte("lazy-server"), 0)
	err := fmt.Errorf("%s: %d arguments", verb, len(args))
	switch {
	case verb == lazy.OrphanageVerb:
		err = lazy.Orphanage(args, os.Stderr)
	case len(args) == 2:
		var peer int
		if peer, err = strconv.Atoi(args[1]); err == nil {
			err = lazy.Serve(args[0], peer, os.NewFile(lazySocket, "socket"), os.Stderr)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bpfckpt:", visible(err.Error()))
		return 1
	}
	return 0
}
