package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func pruneVerb() *verb {
	return &verb{
		name: "prune", operands: "DIR", min: 1, max: 1, short: "remove all but the newest images of a store",
		long: "Removes images that have no name, all but the newest. The head stays, and so does an image with a name, unless --named is given, and\n" +
			"one that a snapshot is just continuing. What is left is whole: data that it shares with removed images stays on disk.",
		flags: []cli.Flag{
			&cli.IntFlag{Name: "keep", Usage: "keep the newest `N` images"},
			&cli.BoolFlag{Name: "named", Usage: "treat images with a name like the others"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only print the ids of the images that would go"},
		},
		examples: []example{
			{"bpfckpt prune job --keep 5", "the five newest, the head and those with a name stay"},
			{"bpfckpt prune job --keep 1 --named --dry-run", "what would go if only one stayed"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage},
		run:   prune,
	}
}

func prune(c *call) error {
	dir, name, err := image.SplitRef(c.args[0])
	switch {
	case err != nil:
		return err
	case name != "":
		return usageError(c.verb, c.args[0], "prune works on a whole store")
	case !c.cli.IsSet("keep"):
		return usageError(c.verb, "--keep", "how many images are to stay?")
	case c.cli.Int("keep") < 0:
		return usageError(c.verb, "--keep", "%d is no number of images", c.cli.Int("keep"))
	}
	o := image.PruneOptions{Keep: c.cli.Int("keep"), Names: c.cli.Bool("named"), Try: c.cli.Bool("dry-run")}
	res, err := image.Prune(dir, o)
	if err != nil {
		return err
	}
	if !o.Try {
		return c.removed(dir, res)
	}
	if c.json {
		return c.object(struct {
			Dir    string   `json:"dir"`
			Remove []string `json:"would_remove"`
		}{dir, append([]string{}, res.Removed...)})
	}
	if len(res.Removed) == 0 {
		return nil
	}
	return c.print(fmt.Sprintln(strings.Join(slices.Clone(res.Removed), "\n")))
}
