package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/restore"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// planFlag asks for the dry run of a verb.
func planFlag(of string) cli.Flag {
	usage := "make nothing: print the steps of the restore, what you should know, and everything that stands in the way"
	if of == "snapshot" {
		usage = "save nothing: stop the processes for a moment, read all but memory, and print what a restore would do, and everything that stands in the way"
	}
	return &cli.BoolFlag{Name: "plan", Usage: usage}
}

// planJSON is what --plan prints with --json.
type planJSON struct {
	Pid      int         `json:"pid,omitempty"`       // of snap: the root of the tree
	Pids     []int       `json:"pids,omitempty"`      // of snap: all of it
	FreezeUS int64       `json:"freeze_us,omitempty"` // of snap: how long it stood still
	Dir      string      `json:"dir,omitempty"`       // of restore
	ID       string      `json:"id,omitempty"`        // of restore
	OK       bool        `json:"ok"`
	Blockers []errorJSON `json:"blockers"`
	Notes    []string    `json:"notes"`
	Steps    []plan.Step `json:"steps"`
}

// planSnapshot prints what a snapshot of a process, and the restore of it, would do.
func planSnapshot(c *call, pid int, o snapshot.Options) error {
	r, err := snapshot.Plan(c.ctx, pid, o)
	if err != nil {
		return err
	}
	return c.printPlan(r.Plan, planJSON{Pid: r.Pid, Pids: r.Pids, FreezeUS: r.FreezeUS})
}

// planRestore prints what a restore would do.
func planRestore(c *call) error {
	o, err := restoreOptions(c)
	if err != nil {
		return err
	}
	img, err := image.Open(c.args[0])
	if err != nil {
		return err
	}
	defer img.Close()
	p, err := restore.Plan(c.ctx, img, o)
	if err != nil {
		return err
	}
	info := img.Info()
	return c.printPlan(p, planJSON{Dir: info.Dir, ID: info.ID})
}

// printPlan prints a plan. What stands in the way comes as the error of the verb does.
func (c *call) printPlan(p *plan.Plan, obj planJSON) error {
	if c.json {
		obj.OK, obj.Blockers, obj.Notes, obj.Steps = len(p.Refusals) == 0, []errorJSON{},
			append([]string{}, p.Notes...), append([]plan.Step{}, p.Steps...)
		for _, e := range p.Refusals {
			obj.Blockers = append(obj.Blockers, jsonOf(e))
		}
		if err := c.object(obj); err != nil {
			return err
		}
		if len(p.Refusals) > 0 {
			return status(p.Refusals[0].Class())
		}
		return nil
	}
	var b strings.Builder
	for i, s := range p.Steps {
		mark := ""
		if s.Final {
			mark = " (cannot be undone)"
		}
		fmt.Fprintf(&b, "%4d  %s%s\n", i+1, strings.ReplaceAll(s.Text, "\n", " "), mark)
	}
	if err := c.print(b.String()); err != nil {
		return err
	}
	for _, n := range p.Notes {
		c.note("%s", n)
	}
	return p.Refusals.OrNil()
}
