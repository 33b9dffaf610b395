package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bpfckpt/bpfckpt/internal/cmdline"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// completeVerb is what the completion scripts call: bpfckpt __complete WORD... prints the candidates for the last word,
// one a line, each with a tab and a description. It is no verb of the table, because its words must not be parsed.
const completeVerb = "__complete"

func completionVerb() *verb {
	return &verb{
		name: "completion", operands: "SHELL", min: 1, max: 1, short: "print a completion script for bash, zsh or fish",
		long: "Prints a script that makes the shell complete verbs, flags, their values, process ids and error codes.",
		examples: []example{
			{"source <(bpfckpt completion bash)", "for this shell; put the line into ~/.bashrc to keep it"},
			{"bpfckpt completion zsh > \"${fpath[1]}/_bpfckpt\"", "for every zsh from now on"},
			{"bpfckpt completion fish > ~/.config/fish/completions/bpfckpt.fish", "for every fish from now on"},
		},
		run: completion,
	}
}

func shells() []string { return []string{"bash", "zsh", "fish"} }

func completion(c *call) error {
	scripts := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	text, ok := scripts[c.args[0]]
	if !ok {
		return usageError(c.verb, c.args[0], "no completion for this shell; there is one for %s",
			strings.Join(shells(), ", "))
	}
	if c.json {
		return c.object(map[string]string{"shell": c.args[0], "script": text})
	}
	return c.print(text)
}

const bashCompletion = `# bash completion for bpfckpt
_bpfckpt() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <(bpfckpt __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _bpfckpt bpfckpt
`

const zshCompletion = `#compdef bpfckpt
# zsh completion for bpfckpt
_bpfckpt() {
    local -a candidates
    local line
    while IFS= read -r line; do
        candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done < <(bpfckpt __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#candidates} )); then
        _describe 'bpfckpt' candidates
    else
        _files
    fi
}
if [[ "$funcstack[1]" = _bpfckpt ]]; then
    _bpfckpt "$@"
else
    compdef _bpfckpt bpfckpt
fi
`

const fishCompletion = `# fish completion for bpfckpt
function __bpfckpt_complete
    set -l words (commandline -opc) (commandline -ct)
    bpfckpt __complete $words[2..-1] 2>/dev/null
end
complete -c bpfckpt -a '(__bpfckpt_complete)'
`

// candidate is one possible completion.
type candidate struct{ word, description string }

// complete prints the candidates for the last of words. Where it prints none, the shell completes file names.
func complete(w io.Writer, table []*verb, words []string) error {
	if len(words) == 0 {
		return nil
	}
	last := words[len(words)-1]
	for _, c := range candidates(table, words[:len(words)-1], last) {
		if !strings.HasPrefix(c.word, last) {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s\t%s\n", c.word, c.description); err != nil {
			return outputError(err)
		}
	}
	return nil
}

// candidates lists what may stand after the words before, some of which may not begin with last.
func candidates(table []*verb, before []string, last string) []candidate {
	if len(before) == 0 {
		return verbCandidates(table)
	}
	v := findVerb(table, before[0])
	if v == nil {
		return nil
	}
	operands := 0
	for i := 1; i < len(before); i++ {
		word := before[i]
		if word == "--" {
			return nil
		}
		if !isFlag(word) {
			if operands++; v.commandLine {
				return nil
			}
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if takes, _ := v.flagTakesValue(name); takes && !hasValue {
			if i++; i == len(before) {
				return v.valueCandidates(name)
			}
		}
	}
	if strings.HasPrefix(last, "-") {
		return v.flagCandidates(last)
	}
	return v.operandCandidates(operands)
}

func verbCandidates(table []*verb) (out []candidate) {
	for _, v := range table {
		if !v.hidden {
			out = append(out, candidate{v.name, v.short})
		}
	}
	return append(out, candidate{"--help", "show help"}, candidate{"--version", "print the version"})
}

func (v *verb) flagCandidates(last string) (out []candidate) {
	if name, _, ok := strings.Cut(last, "="); ok {
		for _, c := range v.valueCandidates(strings.TrimLeft(name, "-")) {
			out = append(out, candidate{name + "=" + c.word, c.description})
		}
		return out
	}
	for _, f := range v.allFlags() {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage := strings.ReplaceAll(d.GetUsage(), "`", "")
		out = append(out, candidate{"--" + f.Names()[0], usage})
	}
	return append(out, candidate{"--help", "show help"})
}

// valueCandidates are the values of a flag, if they are few.
func (v *verb) valueCandidates(name string) (out []candidate) {
	if takes, _ := v.flagTakesValue(name); takes && name == policyFlagName {
		return policyValues()
	}
	for _, f := range v.flags {
		if c, ok := f.(*choiceFlag); ok && c.Name == name {
			for _, value := range c.values {
				out = append(out, candidate{value, ""})
			}
		}
	}
	return out
}

// operandCandidates goes by the name of the operand in the usage line.
func (v *verb) operandCandidates(i int) (out []candidate) {
	names := v.operandNames()
	if i >= len(names) {
		return nil
	}
	switch strings.Trim(names[i], "[]") {
	case "PID":
		return processCandidates("/proc")
	case "CODE":
		for _, e := range fault.All() {
			out = append(out, candidate{string(e.Code), e.Title})
		}
	case "SHELL":
		for _, s := range shells() {
			out = append(out, candidate{s, ""})
		}
	case "VERB":
		return verbCandidates(verbs())
	}
	return out
}

// processCandidates lists the processes that have memory, with their command lines.
func processCandidates(proc string) (out []candidate) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join(proc, e.Name(), "cmdline"))
		if err != nil || len(line) == 0 { // gone, a zombie or a kernel thread
			continue
		}
		out = append(out, candidate{
			e.Name(),
			cmdline.Text(strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")),
		})
	}
	return out
}
