package main

import (
	"fmt"
	"path/filepath"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func rmVerb() *verb {
	return &verb{
		name: "rm", operands: "DIR@NAME ...", min: 1, max: -1, short: "remove images from a store",
		long: "Removes images, by name or id. Data that other images share with them stays on disk until the last of those goes. If the head\n" +
			"is removed, the nearest image before it becomes the head. To remove a whole store, remove its directory.\n\n" +
			"It can be killed at any moment: each image is then whole or gone, and the next rm, prune or squash takes away what is left.",
		examples: []example{
			{"bpfckpt rm job@before-upgrade", "an image by its name"},
			{"bpfckpt rm job@1f2e job@77ab", "two by the beginnings of their ids"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage},
		run:   rm,
	}
}

// removalJSON is what rm, prune and squash print with --json of what went.
type removalJSON struct {
	Dir        string   `json:"dir"`
	Removed    []string `json:"removed"`
	Kept       int      `json:"kept"`
	Referenced []string `json:"lent"` // removed, but other images share their data
	Freed      int64    `json:"bytes_freed"`
	Head       string   `json:"head"`
}

func removalOf(dir string, r image.Removal) removalJSON {
	return removalJSON{dir, append([]string{}, r.Removed...), r.Kept, append([]string{}, r.Referenced...), r.Freed, r.Head}
}

func rm(c *call) error {
	var dir string
	var names []string
	for _, ref := range c.args {
		d, name, err := image.SplitRef(ref)
		switch {
		case err != nil:
			return err
		case name == "":
			return usageError(c.verb, ref, "which image of it? rm takes DIR@NAME")
		case dir != "" && filepath.Clean(d) != filepath.Clean(dir):
			return usageError(c.verb, ref, "one store at a time")
		}
		dir, names = d, append(names, name)
	}
	res, err := image.Remove(dir, names...)
	if err != nil {
		return err
	}
	return c.removed(dir, res)
}

// removed tells what rm or prune did.
func (c *call) removed(dir string, res image.Removal) error {
	c.doubts(res)
	if c.json {
		return c.object(removalOf(dir, res))
	}
	c.say("%s", removalText(res))
	return nil
}

// doubts tells why data that seems of no use was kept.
func (u *ui) doubts(res image.Removal) {
	if res.Doubt != nil {
		u.note("no data was removed from the disk, since nobody knows what a damaged image needs: %v",
			fault.Of(res.Doubt)[0])
	}
}

func removalText(res image.Removal) string {
	text := fmt.Sprintf("removed %s, %d left, %s freed", countText(len(res.Removed), "image"), res.Kept,
		bytesText(max(0, res.Freed)))
	if n := len(res.Referenced); n > 0 {
		text += fmt.Sprintf("; the rest of the data of %s is shared", countText(n, "removed image"))
	}
	return text
}

// countText prints a number of things.
func countText(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
