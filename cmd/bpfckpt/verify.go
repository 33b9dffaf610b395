package main

import (
	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func verifyVerb() *verb {
	return &verb{
		name: "verify", operands: "DIR[@NAME]", min: 1, max: 1, short: "check that an image is whole",
		long: "Reads every byte of the image, and of those it shares data with, and compares checksums. It says nothing if the image\n" +
			"is whole. It needs no rights beyond reading the files.",
		examples: []example{
			{"bpfckpt verify job", "the newest image of the store"},
			{"bpfckpt verify job@before-upgrade && echo whole", "an image by its name"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage, fault.Interrupted},
		run:   verify,
	}
}

// infoJSON is an image as --json prints it.
type infoJSON struct {
	Dir          string      `json:"dir"`
	ID           string      `json:"id"`
	Name         string      `json:"name"`
	Parent       string      `json:"parent"`
	Created      int64       `json:"created_ns"`
	Moment       int64       `json:"moment_ns"` // the freeze; 0 if the image does not tell
	Compress     image.Level `json:"compress"`
	PagesWritten uint64      `json:"pages_written"`
	PagesZero    uint64      `json:"pages_zero"`
	PagesShared  uint64      `json:"pages_shared"`
	BytesRaw     int64       `json:"bytes_raw"`
	BytesWritten int64       `json:"bytes_written"`
	FreezeUS     int64       `json:"freeze_us"`
	Tracking     string      `json:"tracking"`
	Referenced   []string    `json:"lenders"` // images whose data files it shares
}

func infoOf(i image.Info) infoJSON {
	return infoJSON{
		Dir: i.Dir, ID: i.ID, Name: i.Name, Parent: i.Parent, Created: i.Created, Moment: i.Moment, Compress: i.Level,
		PagesWritten: i.PagesWritten,
		PagesZero:    i.PagesZero, PagesShared: i.PagesShared, BytesRaw: i.BytesRaw, BytesWritten: i.BytesWritten,
		FreezeUS: i.Freeze / 1000, Tracking: i.Tracking, Referenced: append([]string{}, i.Referenced...),
	}
}

func verify(c *call) error {
	r, err := image.View(c.args[0])
	if err != nil {
		return err
	}
	defer r.Close()
	progress, finish := c.bar("verifying")
	if progress == nil {
		progress = func(done, total int64) {}
	}
	err = r.Verify(c.ctx, progress)
	finish()
	if err != nil {
		return err
	}
	info := r.Info()
	if c.json {
		return c.object(struct {
			infoJSON
			Whole bool `json:"whole"`
		}{infoOf(info), true})
	}
	c.say("%s@%s is whole: %s", info.Dir, imageName(info.Name, info.ID), bytesText(info.BytesWritten))
	return nil
}
