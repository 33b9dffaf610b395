package main

import (
	"os"
	"strconv"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/job"
	"github.com/bpfckpt/bpfckpt/restore"
)

const restoreNote = "Once the process runs its own exit status, or 128 plus the number of the signal that\nkilled it; with --detach 0. Before that:"

func restoreVerb() *verb {
	return &verb{
		name: "restore", operands: "DIR[@NAME]", min: 1, max: 1, short: "bring back the processes of an image",
		long: "Rebuilds the processes of an image: the same memory, threads, descriptors and process ids. DIR means its newest image,\n" +
			"DIR@NAME one by name or id. The image stays as it is and can be restored again.\n\n" +
			"restore stays in the foreground: the process has the terminal, signals sent to restore are passed on to it, and\n" +
			"restore ends as the process ends. With --detach it returns once the process runs, on its own and without a terminal.\n\n" +
			"With --lazy the processes run before their memory is there. A process of bpfckpt brings it: what they touch at once, the rest in the\n" +
			"background; then it ends. That is for private anonymous memory, in pieces of 64 KiB and more; shared and locked memory and changed pages of\n" +
			"files are there from the beginning. Meanwhile the image may be removed from the store. If what brings the memory is killed, the\n" +
			"processes get SIGBUS; if the image is found damaged, its pages are a SIGBUS to touch. Where the kernel is the first to need such a\n" +
			"page, to run a handler on its stack, it is SIGSEGV. A page that never came is never zeros.\n" +
			"snap waits until all memory is there. --lazy needs Linux 6.6.",
		flags: []cli.Flag{
			&cli.BoolFlag{
				Name:  "detach",
				Usage: "return once the process runs; standard streams that led outside become /dev/null",
			},
			&cli.BoolFlag{Name: "stopped", Usage: "leave the processes stopped (SIGSTOP); kill -CONT lets them run"},
			&cli.StringFlag{Name: "pidfile", Usage: "write the process id of the root to `FILE`"},
			&cli.BoolFlag{Name: "lazy", Usage: "let the processes run at once; memory comes as they touch it, and in the background"},
			pidnsFlag(), filesFlag(), policyFlag(), planFlag("restore"),
		},
		examples: []example{
			{"bpfckpt restore job", "goes on where the newest snapshot was taken"},
			{"bpfckpt restore job@before-upgrade", "goes back to an image by its name"},
			{"bpfckpt restore job --detach --pidfile job.pid", "in the background"},
			{"bpfckpt restore job --lazy", "runs after some milliseconds, however large it is"},
			{"bpfckpt restore job --pidns auto", "also while another process has its process id"},
			{"bpfckpt restore job --policy appended=note", "what was added to its logs meanwhile stays in them"},
			{"bpfckpt restore job --plan", "what would be done, and what stands in the way; nothing is made"},
		},
		exitNote:   restoreNote,
		exits:      []fault.Class{fault.Failed, fault.KernelLacks, fault.BadImage, fault.RolledBack, fault.Interrupted},
		ownSignals: true,
		ownStatus:  true,
		run:        restoreImage,
	}
}

func pidnsFlag() cli.Flag {
	return choice("pidns", "when to use a pid namespace of its own; auto is if an id is taken: `WHEN`", "never", "auto", "always")
}

// restoreJSON is what restore prints with --json when the process has been restored.
type restoreJSON struct {
	Dir       string           `json:"dir"`
	ID        string           `json:"id"`
	Name      string           `json:"name,omitempty"`
	Pid       int              `json:"pid"`  // of the root of the tree, as the caller sees it
	Pids      map[int]int      `json:"pids"` // id in the image -> id now, processes and threads
	PidNS     bool             `json:"pidns"`
	RestoreUS int64            `json:"restore_us"`
	Phases    map[string]int64 `json:"phases"` // microseconds
	Lazy      *lazyJSON        `json:"lazy,omitempty"`
	Notes     []string         `json:"notes"`
}

// lazyJSON is what was still to come when a process restored with --lazy began to run.
type lazyJSON struct {
	Pages  int `json:"pages"`
	Server int `json:"server"` // pid of the process that brings them
}

// restoreOptions reads the flags, but for --lazy.
func restoreOptions(c *call) (restore.Options, error) {
	pol, err := c.policy()
	return restore.Options{
		Detach: c.cli.Bool("detach"), Stopped: c.cli.Bool("stopped"), PidNS: c.cli.String("pidns"), Policy: pol,
		Std: job.OwnStreams(),
	}, err
}

func restoreImage(c *call) error {
	if c.cli.Bool("plan") {
		return planRestore(c)
	}
	o, err := restoreOptions(c)
	if err != nil {
		return err
	}
	if c.cli.Bool("lazy") {
		if o.Lazy, err = startLazy(c.args[0], o.Detach); err != nil { // first, so that it reads the image while we do
			return err
		}
	}
	r, err := image.Open(c.args[0])
	if err != nil {
		if o.Lazy != nil {
			o.Lazy.Abort()
		}
		return err
	}
	defer r.Close()
	place := job.NewForeground()
	defer place.Close()
	tree, err := place.Restore(c.ctx, r, o)
	if err != nil {
		return err
	}
	r.Close()
	for _, n := range tree.Notes {
		c.note("%s", n)
	}
	if err := announce(c, tree); err != nil {
		tree.Abandon()
		return err
	}
	if o.Detach {
		return nil
	}
	ws, err := place.Stay(tree)
	if err != nil {
		return err
	}
	return status(job.ExitCode(ws))
}

// announce tells the pid file and the user that the process is back.
func announce(c *call, tree *job.Restored) error {
	if path := c.cli.String("pidfile"); path != "" {
		if err := os.WriteFile(path, []byte(strconv.Itoa(tree.Root)+"\n"), 0o644); err != nil {
			return fault.New(fault.BeforeRestore, path, "write the pid file: %w", err)
		}
	}
	if !c.json {
		c.say("restored %s@%s as process %d in %s", tree.Info.Dir, imageName(tree.Info.Name, tree.Info.ID), tree.Root,
			microsText(tree.RestoreUS))
		return nil
	}
	obj := restoreJSON{
		Dir: tree.Info.Dir, ID: tree.Info.ID, Name: tree.Info.Name, Pid: tree.Root, Pids: tree.Pids, PidNS: tree.PidNS,
		RestoreUS: tree.RestoreUS, Phases: tree.Phases, Notes: append([]string{}, tree.Notes...),
	}
	if tree.Lazy != nil {
		obj.Lazy = &lazyJSON{Pages: tree.Lazy.Pages, Server: tree.Lazy.Server}
	}
	if err := c.object(obj); err != nil {
		return fault.New(fault.BeforeRestore, "standard output", "%w", err)
	}
	return nil
}
