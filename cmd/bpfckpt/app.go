package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// verb is one verb of the command line.
type verb struct {
	name        string
	operands    string // as the usage line shows them: "PID"
	min, max    int    // how many operands; max < 0 is any number
	short       string // one line, no full stop
	long        string // paragraphs
	flags       []cli.Flag
	examples    []example
	exits       []fault.Class // besides 0, 64 and 130
	exitNote    string        // instead of the list, for verbs that pass a status on
	commandLine bool          // from the first operand on, everything belongs to a command line
	ownStatus   bool          // in the end it exits with the status of a process
	ownSignals  bool          // the verb handles signals itself
	hidden      bool
	run         func(c *call) error
}

// example is a line of help: a command and what it does.
type example struct{ command, does string }

// call is one use of a verb.
type call struct {
	*ui
	ctx  context.Context
	verb *verb
	args []string
	cli  *cli.Context
}

// verbs is the whole command line, in the order of the help.
func verbs() []*verb {
	return []*verb{
		watchVerb(), snapVerb(), restoreVerb(), runVerb(), logVerb(), inspectVerb(), diffVerb(), verifyVerb(),
		squashVerb(), pruneVerb(), rmVerb(), checkVerb(), selftestVerb(), benchVerb(), explainVerb(),
		completionVerb(), helpVerb(),
	}
}

// jsonFlag is a flag of every verb.
func jsonFlag() cli.Flag { return &cli.BoolFlag{Name: "json", Usage: "print one JSON object"} }

func (v *verb) allFlags() []cli.Flag { return append(slices.Clone(v.flags), jsonFlag()) }

// choiceFlag is a string flag with few values.
type choiceFlag struct {
	*cli.StringFlag
	values []string
}

// choice returns a flag that takes one of values; the first is the default. The usage names the value in backquotes, as
// for other flags.
func choice(name, usage string, values ...string) cli.Flag {
	usage += " (" + strings.Join(values, ", ") + "; default: " + values[0] + ")"
	f := &cli.StringFlag{Name: name, Value: values[0], Usage: usage}
	f.Action = func(cx *cli.Context, value string) error {
		if slices.Contains(values, value) {
			return nil
		}
		return fault.New(fault.BadUsage, "--"+name, "%q is not one of %s%s", value, strings.Join(values, ", "),
			didYouMean(value, values)).
			WithRemedy("see `bpfckpt %s --help`", cx.Command.Name)
	}
	return &choiceFlag{f, values}
}

// newApp builds the urfave/cli application for a table of verbs. Errors come back from Run unprinted.
func newApp(table []*verb, u *ui) *cli.App {
	app := &cli.App{
		Name: "bpfckpt", HelpName: "bpfckpt", Usage: "save running processes, and bring them back", Version: version(),
		Writer: u.out, ErrWriter: u.err, HideHelpCommand: true, CustomAppHelpTemplate: appHelp,
		Flags:          []cli.Flag{cli.HelpFlag},
		ExitErrHandler: func(*cli.Context, error) {},
		Metadata:       map[string]any{"exits": exitTable(nil)},
	}
	for _, v := range table {
		app.Commands = append(app.Commands, v.command(u))
	}
	return app
}

func (v *verb) command(u *ui) *cli.Command {
	return &cli.Command{
		Name: v.name, Usage: v.short, ArgsUsage: v.operands, Description: v.help(), Flags: v.allFlags(),
		Hidden:          v.hidden,
		HideHelpCommand: true, CustomHelpTemplate: verbHelp,
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return v.flagError(err) },
		Action: func(cx *cli.Context) error {
			u.json = cx.Bool("json")
			args := cx.Args().Slice()
			if err := v.countOperands(args); err != nil {
				return err
			}
			return v.run(&call{ui: u, ctx: cx.Context, verb: v, args: args, cli: cx})
		},
	}
}

func (v *verb) countOperands(args []string) error {
	switch {
	case len(args) < v.min:
		return usageError(v, v.name, "%s is missing", v.operandNames()[len(args)])
	case v.max >= 0 && len(args) > v.max:
		return usageError(v, args[v.max], "one argument too many")
	}
	return nil
}

// help is the help text of the verb.
func (v *verb) help() string {
	var b strings.Builder
	usage := strings.TrimSpace("bpfckpt " + v.name + " [FLAGS] " + v.operands)
	fmt.Fprintf(&b, "bpfckpt %s - %s\n\nUSAGE:\n   %s\n\n%s\n\nFLAGS:\n%s\nEXAMPLES:\n", v.name, v.short, usage, v.long,
		v.flagTable())
	for _, e := range v.examples {
		fmt.Fprintf(&b, "   %s\n      %s\n", e.command, e.does)
	}
	b.WriteString("\nEXIT CODES:\n")
	if v.exitNote != "" {
		b.WriteString("   " + strings.ReplaceAll(v.exitNote, "\n", "\n   ") + "\n")
	}
	only := append([]fault.Class{fault.Usage}, v.exits...)
	if !v.ownStatus {
		only = append(only, 0)
	}
	b.WriteString(exitTable(only))
	return strings.TrimRight(b.String(), "\n")
}

// flagTable lists the flags; the word in backquotes in a flag's usage is its value.
func (v *verb) flagTable() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, f := range append(v.allFlags(), cli.HelpFlag) {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		head, usage := "--"+f.Names()[0], d.GetUsage()
		if before, rest, ok := strings.Cut(usage, "`"); ok {
			value, after, _ := strings.Cut(rest, "`")
			head, usage = head+" "+value, before+value+after
		}
		fmt.Fprintf(w, "   %s\t%s\n", head, usage)
	}
	w.Flush()
	return b.String()
}

// exitTable lists the given exit codes with their meaning, all of them for nil.
func exitTable(only []fault.Class) string {
	var b strings.Builder
	for _, e := range fault.ExitCodes() {
		if only == nil || slices.Contains(only, e.Class) {
			fmt.Fprintf(&b, "   %3d  %s\n", int(e.Class), e.Title)
		}
	}
	return b.String()
}

// version is the module version the binary was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// pidOperand reads operand i as a process id.
func (c *call) pidOperand(i int) (int, error) {
	pid, err := strconv.Atoi(c.args[i])
	if err != nil || pid <= 0 {
		return 0, usageError(c.verb, c.args[i], "not a process id")
	}
	return pid, nil
}

const appHelp = `{{.Name}} - {{.Usage}}

USAGE:
   {{.Name}} VERB [FLAGS] [ARGUMENTS]

VERBS:{{range .VisibleCommands}}
   {{.Name}}{{"\t"}}{{.Usage}}{{end}}

EXAMPLES:
   bpfckpt snap 4711 --dir job        save process 4711 into the directory job; it runs on
   bpfckpt restore job                bring it back, also after it died
   bpfckpt run -- ./simulate input    Ctrl-C saves and stops it; the same command goes on

EXIT CODES:
{{index .Metadata "exits"}}
   bpfckpt VERB --help   what a verb does, its flags and its exit codes
   bpfckpt --version     the version
`

const verbHelp = "{{.Description}}\n"

// operandNames are the operands of the usage line, without the "--" before a command line.
func (v *verb) operandNames() []string {
	return strings.Fields(strings.TrimPrefix(v.operands, "-- "))
}
