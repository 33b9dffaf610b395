package main

import (
	"strings"

	"github.com/urfave/cli/v2"
)

func helpVerb() *verb {
	return &verb{
		name: "help", operands: "[VERB]", max: 1, short: "show the help of bpfckpt, or of a verb",
		long: "The same as `bpfckpt --help` and `bpfckpt VERB --help`.",
		examples: []example{
			{"bpfckpt help snap", "the flags and exit codes of snap"},
		},
		run: help,
	}
}

// help prints a help text; with --json as one string, so that the verb keeps the promise of the others.
func help(c *call) error {
	var text strings.Builder
	app := *c.cli.App
	app.Writer = &text
	if len(c.args) == 0 {
		cli.HelpPrinter(&text, appHelp, &app)
	} else {
		cmd := app.Command(c.args[0])
		if cmd == nil {
			return usageError(nil, c.args[0], "no such verb%s", didYouMean(c.args[0], verbNames(verbs())))
		}
		cli.HelpPrinter(&text, verbHelp, cmd)
	}
	if c.json {
		return c.object(map[string]string{"help": text.String()})
	}
	return c.print(text.String())
}
