// Command bpfckpt saves running processes and brings them back. `bpfckpt --help` lists the verbs, each in a file of its
// own; this file turns what they return into the one line and the exit code that users and scripts see.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/lazy"
)

func main() { os.Exit(run(os.Args)) }

// run executes one command line and returns the exit code.
func run(args []string) int {
	if len(args) == 3 && args[1] == canaryVerb {
		return canary(args[2])
	}
	if len(args) > 1 && (args[1] == lazy.ServeVerb || args[1] == lazy.OrphanageVerb) {
		return lazyMain(args[1], args[2:])
	}
	u := newUI(os.Stdout, os.Stderr)
	table := verbs()
	if len(args) > 1 && args[1] == completeVerb {
		return u.report(complete(u.out, table, args[2:]))
	}
	u.json = wantsJSON(args)
	inv, err := parseArgs(table, args)
	if err != nil {
		return u.report(err)
	}
	ctx, stop := context.Background(), func() {}
	if inv.verb != nil && !inv.verb.ownSignals {
		ctx, stop = signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	}
	defer stop()
	return u.report(newApp(table, u).RunContext(ctx, inv.args))
}

// status is the error that carries the exit status of a process to pass on; nothing is printed for it.
type status int

func (s status) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// exitCode is the one mapping from what a verb returned to the exit code of the command. The faults are those to print.
func exitCode(err error) (int, fault.List) {
	if err == nil {
		return 0, nil
	}
	if s := status(0); errors.As(err, &s) {
		return int(s), nil
	}
	faults := fault.Of(err)
	return int(faults[0].Class()), faults
}

// errorJSON is a fault as --json prints it.
type errorJSON struct {
	Code   fault.Code `json:"code"`
	Object string     `json:"object"`
	Cause  string     `json:"cause"`
	Remedy string     `json:"remedy"`
	Exit   int        `json:"exit"`
}

func jsonOf(e *fault.Error) errorJSON {
	return errorJSON{Code: e.Code, Object: e.Object, Cause: e.Cause, Remedy: e.Advice(), Exit: int(e.Class())}
}

// report prints the faults in err, grouped, on standard error and with --json one object on standard output, and
// returns the exit code.
func (u *ui) report(err error) int {
	code, faults := exitCode(err)
	for _, line := range faults.Lines() {
		u.note("%s", line)
	}
	if u.json && len(faults) > 0 {
		obj := struct {
			Error  errorJSON   `json:"error"`
			Errors []errorJSON `json:"errors,omitempty"` // all of them, if there are several
		}{Error: jsonOf(faults[0])}
		if len(faults) > 1 {
			for _, e := range faults {
				obj.Errors = append(obj.Errors, jsonOf(e))
			}
		}
		_ = u.object(obj) // the error that counts is already on standard error
	}
	return code
}
