package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	// What our caller left open would be in the way of snapshots of the programs the scripts start.
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	testscript.Main(m, map[string]func(){"bpfckpt": main, "counter": counter})
}

// counter is a program to save: counter N prints the numbers from 1 to N and ends with status 3. After number I it
// waits while there is a file stop-I. It uses nothing of the Go runtime that rests on an epoll descriptor.
func counter() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	for i := 1; i <= n; i++ {
		if _, err := unix.Write(1, []byte(itoa(i)+"\n")); err != nil {
			os.Exit(1)
		}
		for {
			nap := unix.NsecToTimespec(2e6)
			_ = unix.Nanosleep(&nap, nil) // shorter after a signal is as good
			if unix.Access("stop-"+itoa(i), unix.F_OK) != nil {
				break
			}
		}
	}
	os.Exit(3)
}

// Each script under testdata is a session of a user at a shell; see the package testscript for the language.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": cmdStatus,
			"json":   cmdJSON,
			"signal": cmdSignal,
			"until":  cmdUntil,
			"gone":   cmdGone,
		},
		Condition: func(cond string) (bool, error) {
			if cond == "kthread" {
				return kernelThread() != "", nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("SELF", itoa(os.Getpid()))
			env.Setenv("KTHREAD", kernelThread())
			return nil
		},
	})
}

// kernelThread returns the pid of a kernel thread, "" if none is in our pid namespace: bit PF_KTHREAD of field 9 of
// proc_pid_stat(5).
func kernelThread() string {
	const kthread = 0x00200000
	paths, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if flags, err := strconv.ParseUint(fields[6], 10, 64); err == nil && flags&kthread != 0 {
			return filepath.Base(filepath.Dir(path))
		}
	}
	return ""
}
