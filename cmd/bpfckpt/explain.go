package main

import (
	"fmt"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

func explainVerb() *verb {
	return &verb{
		name: "explain", operands: "[CODE]", max: 1, short: "tell the cause of an error code, and the remedy",
		long: "Every error bpfckpt prints begins with a code. explain tells what the code means, what leads to it and what can be\n" +
			"done. Without a code it lists all of them. Codes never change their meaning.",
		examples: []example{
			{"bpfckpt explain E_PID_TAKEN", "what the code means, and what to do"},
			{"bpfckpt explain", "all codes"},
		},
		run: explain,
	}
}

// entryJSON is an entry of the fault table as --json prints it.
type entryJSON struct {
	Code   fault.Code `json:"code"`
	Exit   int        `json:"exit"`
	Title  string     `json:"title"`
	Cause  string     `json:"cause"`
	Remedy string     `json:"remedy"`
}

func entryOf(e fault.Entry) entryJSON {
	return entryJSON{Code: e.Code, Exit: int(e.Class), Title: e.Title, Cause: e.Cause, Remedy: e.Remedy}
}

func explain(c *call) error {
	if len(c.args) == 0 {
		return explainAll(c)
	}
	code := strings.ToUpper(c.args[0])
	e, ok := fault.Lookup(fault.Code(code))
	if !ok && !strings.HasPrefix(code, "E_") {
		e, ok = fault.Lookup(fault.Code("E_" + code))
	}
	if !ok {
		return usageError(c.verb, c.args[0], "no such code%s", didYouMean(code, codeNames())).WithRemedy("`bpfckpt explain` lists all codes")
	}
	if c.json {
		return c.object(entryOf(e))
	}
	return c.print(fmt.Sprintf("%s: %s (exit code %d)\n\ncause:  %s\nremedy: %s\n", e.Code, e.Title, int(e.Class),
		e.Cause, e.Remedy))
}

func explainAll(c *call) error {
	if c.json {
		obj := struct {
			Codes []entryJSON `json:"codes"`
		}{}
		for _, e := range fault.All() {
			obj.Codes = append(obj.Codes, entryOf(e))
		}
		return c.object(obj)
	}
	rows := [][]string{{"CODE", "EXIT", "MEANING"}}
	for _, e := range fault.All() {
		rows = append(rows, []string{string(e.Code), fmt.Sprint(int(e.Class)), e.Title})
	}
	return c.print(table(rows))
}

func codeNames() []string {
	var names []string
	for _, e := range fault.All() {
		names = append(names, string(e.Code))
	}
	return names
}
