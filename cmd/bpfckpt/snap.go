package main

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

func snapVerb() *verb {
	return &verb{
		name: "snap", operands: "PID", min: 1, max: 1,
		short: "save a running process, and the processes below it, to an image",
		long: "Saves the process, its threads and its children to an image in the directory DIR. The process stands still for some\n" +
			"milliseconds and runs on; nothing in it is changed. What cannot be saved is refused by name, before anything is done.\n\n" +
			"A process with much memory is copied while it runs, and stands still only for what it wrote meanwhile. To learn what that is, a\n" +
			"userfaultfd is made in it for that time (Linux 6.7).\n\n" +
			"With --incremental an image shares with the last one of the same process what has not changed since. A watch remembers\n" +
			"what is written in between (bpfckpt watch); without one, snap starts one, and the first image is a full one.\n\n" +
			"A program that marks critical sections, in which no snapshot may be taken (include/bpfckpt.h), is waited for, ten seconds at most, until no\n" +
			"thread of it is in one. That needs a watch that was there before; without one such a program is refused.",
		flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "save into `DIR`, a store of images, made if it is not there (default: ckpt-PID)"},
			&cli.StringFlag{Name: "name", Usage: "name the image `NAME` within the store, for restore DIR@NAME"},
			choice("compress", "how hard memory is compressed: `LEVEL`", "default", "none", "fast", "best"),
			&cli.BoolFlag{
				Name:  "incremental",
				Usage: "save only what has changed since the last snapshot; starts a watch in the background if none runs",
			},
			maxFreezeFlag(),
			excludeFlag(),
			&cli.BoolFlag{
				Name:  "ignore-regions",
				Usage: "do not wait for the program to leave a critical section, in which no snapshot may be taken (bpfckpt.h)",
			},
			&cli.BoolFlag{
				Name:  "no-precopy",
				Usage: "copy all memory while the process stands still: longer, but not even a userfaultfd is made in it",
			},
			&cli.BoolFlag{Name: "stop", Usage: "leave the processes stopped (SIGSTOP) when the image is complete"},
			&cli.BoolFlag{Name: "kill", Usage: "kill the processes when the image is complete"},
			policyFlag(),
			planFlag("snapshot"),
			choice("source", "where the kernel's state is read: from a running watch, by BPF iterators or from /proc: `SOURCE`", "auto", "watch", "iter", "proc"),
		},
		examples: []example{
			{"bpfckpt snap 4711", "saves process 4711 into ckpt-4711; it runs on"},
			{"bpfckpt snap 4711 --dir job --kill", "moves it to disk: restore job brings it back"},
			{"bpfckpt snap 4711 --dir job --incremental", "again and again: each image costs only what changed"},
			{"bpfckpt snap 4711 --dir job --name before-upgrade", "a name to go back to: restore job@before-upgrade"},
			{"bpfckpt snap 4711 --plan", "what a restore would do, and what stands in the way; nothing is saved"},
			{"bpfckpt snap 4711 --json | jq .freeze_us", "how long it stood still, in microseconds"},
		},
		exits: []fault.Class{fault.Failed, fault.KernelLacks, fault.Unsupported, fault.Interrupted},
		run:   snap,
	}
}

func snap(c *call) error {
	pid, err := c.pidOperand(0)
	if err != nil {
		return err
	}
	o, err := snapOptions(c)
	if err != nil {
		return err
	}
	if c.cli.Bool("plan") {
		return planSnapshot(c, pid, o)
	}
	progress, finish := c.bar("saving")
	o.Progress = progress
	res, err := watchClient().Snap(c.ctx, pid, o)
	finish()
	if err != nil {
		return err
	}
	if c.json {
		return c.object(res)
	}
	for _, n := range res.Notes {
		c.note("%s", n)
	}
	c.say("%s", snapText(res))
	return nil
}

func snapOptions(c *call) (snapshot.Options, error) {
	o := snapshot.Options{
		Dir: c.cli.String("dir"), Name: c.cli.String("name"), Compress: image.Level(c.cli.String("compress")),
		MaxFreeze: c.cli.Duration("max-freeze"), Stop: c.cli.Bool("stop"), Kill: c.cli.Bool("kill"),
		Source:      c.cli.String("source"),
		Incremental: c.cli.Bool("incremental"), Precopy: !c.cli.Bool("no-precopy"),
		Exclude: c.cli.StringSlice("exclude"), IgnoreRegions: c.cli.Bool("ignore-regions"),
	}
	if o.Source == "auto" {
		o.Source = ""
	}
	var err error
	if o.Policy, err = c.policy(); err != nil {
		return o, err
	}
	switch {
	case o.Incremental && !o.Precopy:
		return o, usageError(c.verb, "--no-precopy",
			"--incremental needs to know what is written, so a userfaultfd is made in the process")
	case o.Stop && o.Kill:
		return o, usageError(c.verb, "--stop", "--stop and --kill exclude each other")
	case c.cli.IsSet("max-freeze") && o.MaxFreeze <= 0:
		return o, usageError(c.verb, "--max-freeze", "%s is no time to freeze a process in", o.MaxFreeze)
	case c.cli.IsSet("dir") && o.Dir == "":
		return o, usageError(c.verb, "--dir", "the directory is empty")
	case c.cli.IsSet("name") && o.Name == "":
		return o, usageError(c.verb, "--name", "the name is empty")
	}
	return o, nil
}

// snapText is the one line for a person at a terminal.
func snapText(r *snapshot.Result) string {
	processes := ""
	if len(r.Pids) > 1 {
		processes = fmt.Sprintf(", %d processes", len(r.Pids))
	}
	return fmt.Sprintf("saved %s@%s%s: %s of memory in %s, frozen for %s of %s", r.Dir, imageName(r.Name, r.ID),
		processes,
		bytesText(r.BytesRaw), bytesText(r.BytesWritten), microsText(r.FreezeUS), microsText(r.WallUS))
}

// imageName is what restore DIR@NAME takes.
func imageName(name, id string) string {
	if name != "" {
		return name
	}
	return id
}

func microsText(us int64) string { return durationText(time.Duration(us) * time.Microsecond) }
