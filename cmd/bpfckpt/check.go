package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/features"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

func checkVerb() *verb {
	return &verb{
		name: "check", operands: "[PID]", max: 1,
		short: "tell what this kernel can do, or what keeps a process from being saved",
		long: "Without PID: tries what snapshots and restores need of the kernel, and prints what works, what the kernel lacks and what\n" +
			"could not be told, with a remedy. Exit code 3 if something is missing that nothing else can do.\n\n" +
			"With PID: lists everything that keeps the process, or one below it, from being saved, each with a remedy. The process is\n" +
			"not stopped or disturbed. It says nothing if there is nothing but, on standard error, what a restore cannot bring back quite.\n" +
			"Exit code 4 if there is something.",
		flags: []cli.Flag{policyFlag()},
		examples: []example{
			{"bpfckpt check", "is this machine fit?"},
			{"bpfckpt check 4711 && bpfckpt snap 4711", "look before you leap"},
			{"bpfckpt check 4711 --json | jq '.blockers[].code'", "for scripts"},
		},
		exits: []fault.Class{fault.Failed, fault.KernelLacks, fault.Unsupported},
		run:   check,
	}
}

func check(c *call) error {
	if len(c.args) == 0 {
		if c.cli.IsSet(policyFlagName) {
			return usageError(c.verb, "--"+policyFlagName, "it is for a process: PID is missing")
		}
		return checkKernel(c)
	}
	pid, err := c.pidOperand(0)
	if err != nil {
		return err
	}
	return checkProcess(c, pid)
}

// checkJSON is what `check PID --json` prints.
type checkJSON struct {
	Pid      int         `json:"pid"`
	Pids     []int       `json:"pids"`
	Source   string      `json:"source"`
	OK       bool        `json:"ok"`
	Blockers []errorJSON `json:"blockers"`
	Notes    []string    `json:"notes"`
}

func checkProcess(c *call, pid int) error {
	pol, err := c.policy()
	if err != nil {
		return err
	}
	report, err := snapshot.Check(c.ctx, pid, pol)
	if err != nil {
		return err
	}
	if len(report.Unseen) > 0 && !agent.Watched(pid) {
		report.Blockers = append(report.Blockers, report.Unseen...)
	}
	n := len(report.Blockers)
	if c.json {
		obj := checkJSON{
			Pid: report.Pid, Pids: report.Pids, Source: report.Source, OK: n == 0, Blockers: []errorJSON{},
			Notes: append([]string{}, report.Notes...),
		}
		for _, e := range report.Blockers {
			obj.Blockers = append(obj.Blockers, jsonOf(e))
		}
		err = c.object(obj)
	} else {
		for _, line := range report.Blockers.Lines() {
			if err = c.print(visible(strings.ReplaceAll(line, "\n", " ")) + "\n"); err != nil {
				break
			}
		}
	}
	if err != nil {
		return err
	}
	if n > 0 {
		return status(fault.Unsupported)
	}
	if !c.json {
		for _, note := range report.Notes {
			c.note("%s", note)
		}
	}
	c.say("process %d can be saved", pid)
	return nil
}

// featureJSON is a feature as --json prints it.
type featureJSON struct {
	Name     string           `json:"name"`
	Title    string           `json:"title"`
	For      string           `json:"for"`
	Since    string           `json:"since"`
	Required bool             `json:"required"`
	Outcome  features.Outcome `json:"outcome"`
	Detail   string           `json:"detail,omitempty"`
	Remedy   string           `json:"remedy,omitempty"` // unless the outcome is yes
}

func checkKernel(c *call) error {
	results := features.Probe()
	var missing fault.List
	for _, r := range results {
		if r.Required && r.Outcome != features.Yes {
			missing = append(missing, fault.New(fault.NoFeature, r.Name, "%s: %s", r.Title, r.Detail).
				WithRemedy("%s", r.Remedy))
		}
	}
	if c.json {
		if err := c.object(kernelJSON(results, len(missing) == 0)); err != nil {
			return err
		}
		if len(missing) > 0 {
			return status(fault.KernelLacks)
		}
		return nil
	}
	if err := c.print(kernelText(results)); err != nil {
		return err
	}
	return missing.OrNil()
}

func kernelJSON(results []features.Result, ok bool) any {
	obj := struct {
		OK       bool          `json:"ok"`
		Features []featureJSON `json:"features"`
	}{OK: ok}
	for _, r := range results {
		f := featureJSON{
			Name: r.Name, Title: r.Title, For: r.For, Since: r.Since, Required: r.Required,
			Outcome: r.Outcome, Detail: r.Detail,
		}
		if r.Outcome != features.Yes {
			f.Remedy = r.Remedy
		}
		obj.Features = append(obj.Features, f)
	}
	return obj
}

func kernelText(results []features.Result) string {
	rows := [][]string{{"FEATURE", "HERE", "NEEDED", "SINCE", "FOR"}}
	for _, r := range results {
		needed := "no"
		if r.Required {
			needed = "yes"
		}
		rows = append(rows, []string{r.Title, string(r.Outcome), needed, r.Since, r.For})
	}
	text := table(rows)
	for _, r := range results {
		if r.Outcome != features.Yes {
			text += fmt.Sprintf("\n%s: %s\n   %s\n", r.Title, r.Detail, r.Remedy)
		}
	}
	return text
}
