package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// TakeOver ends a watch of an earlier version in favour of the one that is to follow the process now. If it saved the
// process again and again, and that is not what the new one is for (saves), another goes on with it in the background.
// The note is what the user should know of that, "" if there was no such watch; it may come with an error.
func (c Client) TakeOver(ctx context.Context, pid int, saves bool) (note string, err error) {
	client, found, err := control.Dial(pid)
	if err != nil || !found {
		return "", err
	}
	defer client.Close()
	if !client.Former() {
		asking, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		if err := client.Do(asking, control.OpStatus, nil, &Status{}, nil); !errors.Is(err, control.ErrOlder) {
			return "", nil //nolint:nilerr // it is one like us, whatever is wrong with it
		}
	}
	bounded, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	release, err := control.StartLock(bounded, pid)
	if err != nil {
		return "", err
	}
	defer release()
	old, err := c.endFormer(ctx, pid, client)
	if err != nil && !errors.Is(err, &fault.Error{Code: fault.NoWatch}) {
		return "", err
	}
	if old.periodic && !saves {
		_, err := Start(ctx, pid, old.flags)
		return old.note(pid), err
	}
	return old.note(pid), nil
}

// former is a watch of an earlier version that was ended.
type former struct {
	flags    []string // of the verb, for one that goes on with what it did
	periodic bool     // it saved the process again and again
}

func (f *former) note(pid int) string {
	text := fmt.Sprintf("the watch of pid %d was of an earlier version of bpfckpt; it was ended, and another takes its place", pid)
	if f.periodic {
		text += ", which goes on to save " + pidName(pid) + " with " + strings.Join(f.flags, " ")
	}
	return text
}

// endFormer ends a watch of an earlier version. It closes the client.
func (c Client) endFormer(ctx context.Context, pid int, client *control.Client) (*former, error) {
	defer client.Close()
	f := &former{}
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var s Status
	// one that does not answer does nothing that could be gone on with
	if err := client.Do(asking, control.OpStatus, nil, &s, nil); err == nil {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", client.Peer()))
		f.flags = c.flagsOf(strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00"))
		if f.periodic = s.Saves != nil; f.periodic {
			f.flags = append(slices.DeleteFunc(f.flags, func(a string) bool { return strings.HasPrefix(a, "--dir=") }),
				"--dir="+s.Saves.Dir)
		}
	}
	return f, end(ctx, pid, false)
}

// flagsOf are the flags in the command line of a watch that one in the background may have, as NAME=VALUE.
func (c Client) flagsOf(line []string) (flags []string) {
	at := slices.Index(line, "watch")
	if at < 0 {
		return nil
	}
	for args := line[at+1:]; len(args) > 0; args = args[1:] {
		name, value, hasValue := strings.Cut(strings.TrimLeft(args[0], "-"), "=")
		needs, ours := c.Flags[name]
		switch {
		case !ours || !strings.HasPrefix(args[0], "-"):
		case !needs:
			flags = append(flags, "--"+name)
		case hasValue:
			flags = append(flags, "--"+name+"="+value)
		case len(args) > 1:
			flags, args = append(flags, "--"+name+"="+args[1]), args[1:]
		}
	}
	return flags
}
