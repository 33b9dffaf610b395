package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// urfave/cli v2 stops at the first argument: flags after it are neither parsed nor rejected. So the command line is
// read here first: flags are moved before the arguments, and what is unknown or incomplete is named.

// invocation is a command line in the order urfave/cli wants it.
type invocation struct {
	verb *verb // nil for the command without a verb
	args []string
}

// usageError is a fault that ends with exit code 64.
func usageError(v *verb, object, format string, args ...any) *fault.Error {
	help := "bpfckpt --help"
	if v != nil {
		help = "bpfckpt " + v.name + " --help"
	}
	return fault.New(fault.BadUsage, object, format, args...).WithRemedy("see `%s`", help)
}

// badValue is how package flag words a value it cannot parse.
var badValue = regexp.MustCompile(`^invalid (?:boolean )?value ("(?:.*)") for (?:flag )?-([^:]*): (.*)$`)

// flagError turns what package flag says of a value into a usage error.
func (v *verb) flagError(err error) error {
	m := badValue.FindStringSubmatch(err.Error())
	if m == nil {
		return usageError(v, "", "%s", err.Error())
	}
	for _, f := range v.flags {
		if _, ok := f.(*cli.DurationFlag); ok && f.Names()[0] == m[2] {
			return usageError(v, "--"+m[2], "%s is not a duration such as 100ms or 2s", m[1])
		}
	}
	return usageError(v, "--"+m[2], "%s does not fit: %s", m[1], m[3])
}

// wantsJSON guesses whether a --json is among our own flags, for errors that are found before flags are parsed.
func wantsJSON(args []string) bool {
	for _, a := range args {
		switch strings.TrimLeft(a, "-") {
		case "":
			if a == "--" {
				return false
			}
		case "json", "json=true":
			if strings.HasPrefix(a, "-") {
				return true
			}
		}
	}
	return false
}

// parseArgs finds the verb and puts its flags before its arguments. Everything after "--" stays an argument, and so
// does, for a verb that takes a command line, everything after the first argument.
func parseArgs(table []*verb, args []string) (invocation, error) {
	rest := args[1:]
	if len(rest) == 0 {
		return invocation{}, usageError(nil, "", "no verb given")
	}
	if isFlag(rest[0]) {
		if slices.Contains(rootFlags, rest[0]) {
			return invocation{args: []string{args[0], rest[0]}}, nil
		}
		return invocation{}, usageError(nil, rest[0], "not a flag of bpfckpt itself; flags follow the verb")
	}
	v := findVerb(table, rest[0])
	if v == nil {
		e := usageError(nil, rest[0], "no such verb%s", didYouMean(rest[0], verbNames(table)))
		return invocation{}, e
	}
	flags, operands, err := v.split(rest[1:])
	if err != nil {
		return invocation{verb: v}, err
	}
	if slices.ContainsFunc(flags, isHelp) {
		return invocation{verb: findVerb(table, "help"), args: []string{args[0], "help", v.name}}, nil
	}
	out := append([]string{args[0], v.name}, flags...)
	return invocation{verb: v, args: append(append(out, "--"), operands...)}, nil
}

func isHelp(flag string) bool { return slices.Contains([]string{"--help", "-help", "-h", "--h"}, flag) }

var rootFlags = []string{"--help", "-help", "-h", "--version", "-version", "-v"}

func isFlag(arg string) bool { return len(arg) > 1 && arg[0] == '-' }

// split separates the flags of a verb, with their values, from its operands.
func (v *verb) split(args []string) (flags, operands []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return flags, append(operands, args...), nil
		}
		if !isFlag(arg) {
			operands = append(operands, arg)
			if v.commandLine {
				return flags, append(operands, args...), nil
			}
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		takes, ok := v.flagTakesValue(name)
		switch {
		case !ok:
			return nil, nil, usageError(v, arg, "no such flag%s", didYouMean("--"+name, v.flagNames()))
		case takes && !hasValue && (len(args) == 0 || args[0] == "--"):
			return nil, nil, usageError(v, arg, "the value is missing")
		case takes && !hasValue:
			flags, args = append(flags, arg, args[0]), args[1:]
		default:
			flags = append(flags, arg)
		}
	}
	return flags, operands, nil
}

// flagTakesValue looks up a flag of the verb by its name without dashes.
func (v *verb) flagTakesValue(name string) (takes, ok bool) {
	if name == "help" || name == "h" {
		return false, true
	}
	for _, f := range v.allFlags() {
		if slices.Contains(f.Names(), name) {
			d, ok := f.(cli.DocGenerationFlag)
			return ok && d.TakesValue(), true
		}
	}
	return false, false
}

func (v *verb) flagNames() []string {
	names := []string{"--help"}
	for _, f := range v.allFlags() {
		names = append(names, "--"+f.Names()[0])
	}
	return names
}

func findVerb(table []*verb, name string) *verb {
	i := slices.IndexFunc(table, func(v *verb) bool { return v.name == name })
	if i < 0 {
		return nil
	}
	return table[i]
}

func verbNames(table []*verb) []string {
	var names []string
	for _, v := range table {
		if !v.hidden {
			names = append(names, v.name)
		}
	}
	return names
}

// didYouMean returns " (did you mean X?)" for the candidate that is nearest to word, or "" if none is near.
func didYouMean(word string, candidates []string) string {
	best, least := "", 3 // more than two slips is another word
	for _, c := range candidates {
		d := slips(word, c)
		if strings.HasPrefix(c, word) && len(strings.TrimLeft(word, "-")) >= 2 {
			d = min(d, 1)
		}
		if d < least && d < len(strings.TrimLeft(c, "-")) {
			best, least = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// slips counts the insertions, deletions, substitutions and swaps of neighbours that lead from a to b.
func slips(a, b string) int {
	row := func(fill int) []int { r := make([]int, len(b)+1); r[0] = fill; return r }
	before, prev := row(0), row(0)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := row(i)
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev = prev, cur
	}
	return prev[len(b)]
}
