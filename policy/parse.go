package policy

import (
	"fmt"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// IsChoice tells CLASS=ACTION from the name of a file: a name that has the like of it in it can be written with a /
// before.
func IsChoice(text string) bool {
	class, _, ok := strings.Cut(text, "=")
	return ok && !strings.Contains(class, "/")
}

// Parse reads CLASS=ACTION. by is where it was said. The error is fault.BadOption.
func Parse(text, by string) (Choice, error) {
	class, action, ok := strings.Cut(text, "=")
	if !ok {
		return Choice{}, fault.New(fault.BadOption, by, "%q is not CLASS=ACTION", text)
	}
	c := Choice{Class(strings.TrimSpace(class)), Action(strings.TrimSpace(action)), by}
	return c, c.valid()
}

// ParseFile reads a file of lines CLASS=ACTION; what follows # on a line is for people. The error is fault.BadOption,
// with the file's name and the line.
func ParseFile(text, name string) (list []Choice, err error) {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		c, err := Parse(line, fmt.Sprintf("%s:%d", name, n))
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}
