package main

import (
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
	"github.com/bpfckpt/bpfckpt/policy"
)

const policyFlagName = "policy"

// policyFlag says what becomes of what an image does not hold.
func policyFlag() cli.Flag {
	return &cli.StringSliceFlag{
		Name: policyFlagName, Usage: "what becomes of what an image does not hold: `CLASS=ACTION`, such as std=null, or a file of " +
			"such lines (docs/policy.md); may be repeated",
	}
}

// policy makes the policy of --policy and of the flags that are short for it. The error is fault.BadOption, also if two
// of them contradict each other.
func (c *call) policy() (policy.Policy, error) {
	var choices []policy.Choice
	if c.cli.Bool("detach") {
		choices = policy.Shorthand("--detach")
	}
	if c.cli.IsSet(filesName) {
		choices = append(choices, policy.Shorthand("--"+filesName+" "+c.cli.String(filesName))...)
	}
	for _, text := range c.cli.StringSlice(policyFlagName) {
		list, err := policyChoices(text)
		if err != nil {
			return nil, err
		}
		choices = append(choices, list...)
	}
	return policy.Make(choices...)
}

// policyChoices reads one --policy.
func policyChoices(text string) ([]policy.Choice, error) {
	if policy.IsChoice(text) {
		c, err := policy.Parse(text, "--policy "+text)
		return []policy.Choice{c}, err
	}
	content, err := os.ReadFile(text)
	if err != nil {
		return nil, fault.New(fault.BadOption, "--policy "+text, "it is not CLASS=ACTION, and as a file: %w", err).
			WithRemedy("the classes and their actions are in docs/policy.md")
	}
	return policy.ParseFile(string(content), text)
}

// filesName is the flag that is short for a policy of policy.Files.
const filesName = "files"

func filesFlag() cli.Flag {
	const usage = "what to do about files that the program writes to and that were changed since; verify is to refuse: `HOW`"
	row, _ := policy.RowOf(policy.Files)
	var values []string
	for _, a := range row.Actions() {
		values = append(values, string(a))
	}
	return choice(filesName, usage, values...)
}

// policyValues are the values of --policy.
func policyValues() (out []candidate) {
	for _, r := range policy.Table() {
		for _, o := range r.Can {
			out = append(out, candidate{string(r.Class) + "=" + string(o.Action), strings.ReplaceAll(o.Does, "`", "")})
		}
	}
	return out
}

// outsideJSON is what an image does not hold of one class, and what becomes of it.
type outsideJSON struct {
	Class   policy.Class    `json:"class"`
	Action  policy.Action   `json:"action"`  // without --policy
	Actions []policy.Action `json:"actions"` // that are possible, the first without --policy
	Objects []objectJSON    `json:"objects"`
}

// objectJSON is one open file description.
type objectJSON struct {
	File   int    `json:"file"`   // its id, as in files
	Object string `json:"object"` // a descriptor of it
	Path   string `json:"path"`
}

// policyOf says what becomes of what an image does not hold, by class.
func policyOf(st *model.State) []outsideJSON {
	out := []outsideJSON{}
	all := plan.OutsideOf(st)
	for _, r := range policy.Table() {
		o := outsideJSON{Class: r.Class, Action: policy.Policy(nil).Of(r.Class), Actions: r.Actions()}
		for _, x := range all {
			if x.Class == r.Class {
				o.Objects = append(o.Objects, objectJSON{x.File, x.Object, x.Path})
			}
		}
		if len(o.Objects) > 0 {
			out = append(out, o)
		}
	}
	return out
}

// policyText is policyOf for people.
func policyText(st *model.State) string {
	rows := [][]string{{"CLASS", "BECOMES", "CAN ALSO", "OBJECT"}}
	for _, o := range policyOf(st) {
		var others []string
		for _, a := range o.Actions[1:] {
			others = append(others, string(a))
		}
		for _, x := range o.Objects {
			rows = append(rows, []string{
				string(o.Class), string(o.Action), strings.Join(others, ","), x.Object + " " + x.Path,
			})
		}
	}
	if len(rows) == 1 {
		return ""
	}
	return "OUTSIDE OF THE IMAGE (--policy CLASS=ACTION)\n" + indent(table(rows))
}
