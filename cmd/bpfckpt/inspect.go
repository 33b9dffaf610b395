package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/cmdline"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

func inspectVerb() *verb {
	return &verb{
		name: "inspect", operands: "DIR[@NAME]", min: 1, max: 1, short: "show what is in an image",
		long: "Prints the processes of an image, with their threads, mappings, descriptors, signal handlers, timers, limits and\n" +
			"credentials, and the resources used so far, over all lives of a process; then what the image depends on and does not\n" +
			"hold, and what can become of it (--policy of restore). It needs no rights beyond reading the files.",
		examples: []example{
			{"bpfckpt inspect job", "the newest image of the store"},
			{"bpfckpt inspect job --json | jq '.processes[].vmas | length'", "how many mappings each process has"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage},
		run:   inspect,
	}
}

func inspect(c *call) error {
	r, err := image.View(c.args[0])
	if err != nil {
		return err
	}
	defer r.Close()
	if c.json {
		return c.object(stateJSON(r))
	}
	return c.print(inspectText(r))
}

// stateJSON is an image as `inspect --json` prints it: the whole state, and what its readers would have to sum up.
func stateJSON(r *image.Reader) any {
	type processTotal struct {
		Pid   int         `json:"pid"`
		Usage model.Usage `json:"usage"` // over all lives
	}
	obj := struct {
		Image infoJSON `json:"image"`
		*model.State
		Totals  []processTotal `json:"totals"`
		Skipped []string       `json:"skipped,omitempty"` // records of a later version
		Policy  []outsideJSON  `json:"policy"`
	}{
		Image: infoOf(r.Info()), State: r.State(), Totals: []processTotal{}, Skipped: r.Skipped(),
		Policy: policyOf(r.State()),
	}
	for i := range obj.Processes {
		p := &obj.Processes[i]
		obj.Totals = append(obj.Totals, processTotal{p.Pid, sumUsage(p.Usage, p.Carried)})
	}
	return obj
}

// inspectText is the image for people: the image itself, then each process in tables.
func inspectText(r *image.Reader) string {
	st := r.State()
	var b strings.Builder
	b.WriteString(imageText(r.Info(), st, r.Skipped()))
	for i := range st.Processes {
		b.WriteString("\n" + processText(r, &st.Processes[i]))
	}
	for _, t := range []string{filesText(st), policyText(st)} {
		if t != "" {
			b.WriteString("\n" + t)
		}
	}
	return b.String()
}

func imageText(i image.Info, st *model.State, skipped []string) string {
	rows := [][]string{
		{"image", i.Dir + "@" + imageName(i.Name, i.ID)},
		{"id", i.ID},
		{"parent", orNone(i.Parent)},
		{"taken", i.Taken().Format(time.DateTime + ".000 MST")},
		{"kernel", fmt.Sprintf("%s %s", st.Kernel.Release, st.Kernel.Machine)},
		{"cpu", orNone(st.Kernel.CPUModel)},
		{"processes", fmt.Sprint(len(st.Processes))},
		{"pages", fmt.Sprintf("%d stored, %d zero, %d shared", i.PagesWritten, i.PagesZero, i.PagesShared)},
		{"size", fmt.Sprintf("%s of memory in %s (compress %s)", bytesText(i.BytesRaw), bytesText(i.BytesWritten),
			i.Level)},
	}
	if len(skipped) > 0 {
		rows = append(rows, []string{"skipped", strings.Join(skipped, ", ") + " (records of a later version)"})
	}
	return table(rows)
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// section is one table of a process.
type section struct {
	title string
	rows  func(*image.Reader, *model.Process) [][]string // the first is the head; nothing else means nothing to show
}

func sections() []section {
	return []section{
		{"THREADS", threadRows},
		{"MAPPINGS", mappingRows},
		{"DESCRIPTORS", descriptorRows},
		{"SIGNAL HANDLERS", handlerRows},
		{"TIMERS", timerRows},
		{"LIMITS", limitRows},
		{"CREDENTIALS", credentialRows},
		{"USAGE", usageRows},
	}
}

func processText(r *image.Reader, p *model.Process) string {
	var b strings.Builder
	fmt.Fprintf(&b, "PROCESS %d: %s\n", p.Pid, cmdline.Text(p.Args))
	rows := [][]string{
		{"parent", fmt.Sprint(p.PPid)},
		{"group, session", fmt.Sprintf("%d, %d", p.Pgid, p.Sid)},
		{"program", orNone(p.Exe.Path)},
		{"directory", orNone(p.Cwd)},
	}
	if p.Root != "" && p.Root != "/" {
		rows = append(rows, []string{"root", p.Root})
	}
	if p.Zombie {
		b.WriteString(indent(table(append(rows[:2],
			[]string{"state", "ended, wait status " + fmt.Sprintf("%#x", p.ExitCode)}))))
		return b.String()
	}
	if p.Stopped != 0 {
		rows = append(rows, []string{"state", "stopped by " + signalName(p.Stopped)})
	}
	rows = append(rows, []string{"umask", fmt.Sprintf("%04o", p.Umask)},
		[]string{"oom score", fmt.Sprint(p.OOMScoreAdj)})
	b.WriteString(indent(table(rows)))
	for _, s := range sections() {
		if rows := s.rows(r, p); len(rows) > 1 {
			fmt.Fprintf(&b, "\n  %s (%d)\n%s", s.title, len(rows)-1, indent(table(rows)))
		}
	}
	return b.String()
}

func indent(text string) string {
	lines := strings.SplitAfter(text, "\n")
	for i, l := range lines {
		if l != "" && l != "\n" {
			lines[i] = "  " + l
		}
	}
	return strings.Join(lines, "")
}

// filesText lists the open file descriptions of all processes, which descriptors share.
func filesText(st *model.State) string {
	if len(st.Files) == 0 {
		return ""
	}
	rows := [][]string{{"ID", "KIND", "FLAGS", "POSITION", "PATH"}}
	for _, f := range st.Files {
		path := f.Path
		if f.Std > 0 {
			path += fmt.Sprintf(" (standard stream %d of restore)", f.Std-1)
		}
		rows = append(rows, []string{fmt.Sprint(f.ID), f.Kind, openFlags(f.Flags), fmt.Sprint(f.Pos), path})
	}
	return fmt.Sprintf("OPEN FILES (%d)\n%s", len(st.Files), indent(table(rows)))
}
