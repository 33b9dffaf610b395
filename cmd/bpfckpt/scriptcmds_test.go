package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// cmdStatus runs a command and demands an exit status: status 64 bpfckpt snap
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND [ARGUMENT...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit status %d instead of %s", code, args[0])
	}
}

// cmdJSON demands that standard output is exactly one JSON object, on one line, and looks into it: json error.code
// E_USAGE. Without a value the key must be there; with ! it must not.
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: json KEY[.KEY...] [VALUE]")
	}
	text := ts.ReadFile("stdout")
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("standard output is not one line: %q", text)
	}
	var obj map[string]any
	if err := json.Unmarshal([]byte(text), &obj); err != nil {
		ts.Fatalf("standard output is not a JSON object: %v: %q", err, text)
	}
	value, ok := dig(obj, strings.Split(args[0], "."))
	switch {
	case ok == neg && neg:
		ts.Fatalf("%s is there: %v", args[0], value)
	case neg:
		return
	case !ok:
		ts.Fatalf("there is no %s in %s", args[0], text)
	case len(args) == 2 && fmt.Sprint(value) != args[1]:
		ts.Fatalf("%s is %v instead of %s", args[0], value, args[1])
	}
}

func dig(v any, keys []string) (any, bool) {
	for _, k := range keys {
		switch c := v.(type) {
		case map[string]any:
			x, ok := c[k]
			if !ok {
				return nil, false
			}
			v = x
		case []any:
			var i int
			if _, err := fmt.Sscan(k, &i); err != nil || i >= len(c) {
				return nil, false
			}
			v = c[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// cmdSignal sends a signal to the process whose id a file holds: signal INT pidfile
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: signal NAME PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[1])))
	if err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
	ts.Check(unix.Kill(pid, unix.SignalNum("SIG"+args[0])))
}

// cmdUntil waits until a file has a line that matches: until FILE PATTERN
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: until FILE PATTERN")
	}
	re, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && re.Match(text) {
			return
		}
	}
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Fatalf("nothing in %s matches %q after %s: %v: %q", args[0], args[1], patience, err, text)
}

// cmdGone waits until the process whose id a file holds is gone: gone PIDFILE
func cmdGone(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: gone PIDFILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	for end := time.Now().Add(patience); unix.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("process %d is still there", pid)
		}
	}
}

// patience is how long a script waits for something to happen on a busy machine.
const patience = 30 * time.Second
