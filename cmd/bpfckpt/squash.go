package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func squashVerb() *verb {
	levels := []string{"same"}
	for _, l := range image.Levels() {
		levels = append(levels, string(l))
	}
	return &verb{
		name: "squash", operands: "DIR[@NAME]", min: 1, max: 1, short: "make an image hold all of its data itself",
		long: "Puts an image that shares nothing in the place of one that takes pages from other images: for a copy that is to travel\n" +
			"alone, for a faster restore of an image at the end of a long row, or before older ones are pruned. It keeps its name, its time and its\n" +
			"place in the tree; its id is new, and the old id still leads to it. With --chain the images before it go too, up to one with a name\n" +
			"or where a branch begins. An image that shares nothing is left as it is.\n\n" +
			"It can be killed at any moment: the store then has the old image or the new one.",
		flags: []cli.Flag{
			&cli.BoolFlag{Name: "chain", Usage: "also remove the images before it that nothing else continues"},
			choice("compress", "how hard to compress: `LEVEL`", levels...),
		},
		examples: []example{
			{"bpfckpt squash job", "the head"},
			{"bpfckpt squash job@weekly --chain --compress best", "a row of images becomes one, small"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage, fault.Interrupted},
		run:   squash,
	}
}

func squash(c *call) error {
	o := image.SquashOptions{Chain: c.cli.Bool("chain")}
	if l := c.cli.String("compress"); l != "same" {
		o.Level = image.Level(l)
	}
	progress, finish := c.bar("squashing")
	o.Progress = progress
	info, res, err := image.Squash(c.ctx, c.args[0], o)
	finish()
	if err != nil {
		return err
	}
	c.doubts(res)
	if c.json {
		return c.object(struct {
			infoJSON
			Removed []string `json:"removed"`
			Freed   int64    `json:"bytes_freed"`
		}{infoOf(info), append([]string{}, res.Removed...), res.Freed})
	}
	text := fmt.Sprintf("%s@%s holds all of its data: %s", info.Dir, imageName(info.Name, info.ID),
		bytesText(info.BytesWritten))
	if len(res.Removed) > 0 {
		text += "; " + removalText(res)
	}
	c.say("%s", text)
	return nil
}
