// Package timens reads and sets the clock offsets of time namespaces (time_namespaces(7), Linux 5.6). A process in one
// sees CLOCK_MONOTONIC and CLOCK_BOOTTIME shifted by a constant against the initial namespace.
package timens

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Offsets are what a time namespace adds to the clocks of the initial one, in nanoseconds.
type Offsets struct {
	Monotonic int64
	Boottime  int64
}

// Clocks are readings of the two clocks, in nanoseconds.
type Clocks struct {
	Monotonic int64
	Boottime  int64
}

// Of reads the offsets of the namespace that children of the process are born into (/proc/PID/timens_offsets), which is
// its own unless it has called unshare(CLONE_NEWTIME). A kernel without time namespaces has no offsets.
func Of(pid int) (Offsets, error) {
	name := fmt.Sprintf("/proc/%d/timens_offsets", pid)
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
			return Offsets{}, fmt.Errorf("read clock offsets: %w", err)
		}
		return Offsets{}, nil
	}
	if err != nil {
		return Offsets{}, fmt.Errorf("read clock offsets: %w", err)
	}
	defer f.Close()
	o, err := parse(f)
	if err != nil {
		return Offsets{}, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

func parse(r io.Reader) (Offsets, error) {
	var o Offsets
	for sc := bufio.NewScanner(r); sc.Scan(); {
		var clock string
		var sec, nsec int64
		if _, err := fmt.Sscan(sc.Text(), &clock, &sec, &nsec); err != nil {
			return o, fmt.Errorf("line %q: %w", sc.Text(), err)
		}
		switch clock {
		case "monotonic":
			o.Monotonic = sec*int64(time.Second) + nsec
		case "boottime":
			o.Boottime = sec*int64(time.Second) + nsec
		default:
			return o, fmt.Errorf("unknown clock %q", clock)
		}
	}
	return o, nil
}

// Set writes the offsets of the namespace that a process has made with unshare(CLONE_NEWTIME), before anything has
// entered it. It needs CAP_SYS_TIME.
func (o Offsets) Set(pid int) error {
	text := fmt.Sprintf("monotonic %s\nboottime %s\n", split(o.Monotonic), split(o.Boottime))
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/timens_offsets", pid), []byte(text), 0); err != nil {
		return fmt.Errorf("set clock offsets: %w", err)
	}
	return nil
}

// split prints nanoseconds as seconds, which may be negative, and nanoseconds, which may not.
func split(ns int64) string {
	sec, nsec := ns/int64(time.Second), ns%int64(time.Second)
	if nsec < 0 {
		sec, nsec = sec-1, nsec+int64(time.Second)
	}
	return fmt.Sprintf("%d %d", sec, nsec)
}

// Clocks reads the clocks of the initial time namespace, by one who is in a namespace with these offsets.
func (o Offsets) Clocks() (Clocks, error) {
	var mono, boot unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono),
		unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)); err != nil {
		return Clocks{}, fmt.Errorf("read clocks: %w", err)
	}
	return Clocks{Monotonic: mono.Nano() - o.Monotonic, Boottime: boot.Nano() - o.Boottime}, nil
}
