package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/cmdline"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

func diffVerb() *verb {
	return &verb{
		name: "diff", operands: "DIR[@A] [DIR@B]", min: 1, max: 2, short: "show what changed between two images",
		long: "Compares two images: processes and threads that came and went, mappings, descriptors, and how many pages and bytes of memory\n" +
			"have another content. With one operand an image is compared with the one it continues. The second operand may be @NAME, an image of the\n" +
			"same store. Data that the images share is not read.",
		examples: []example{
			{"bpfckpt diff job", "what the newest snapshot changed"},
			{"bpfckpt diff job@monday @friday", "two images of one store"},
			{"bpfckpt diff job@a job@b --json | jq '.processes[].pages'", "the pages of each process"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage, fault.Interrupted},
		run:   diff,
	}
}

// diffJSON is what diff prints with --json.
type diffJSON struct {
	A         infoJSON      `json:"a"`
	B         infoJSON      `json:"b"`
	Processes []processDiff `json:"processes"`
	Objects   []objectDiff  `json:"objects"` // shared memory
}

// processDiff is how a process differs. Of one that is only in A or only in B there is nothing but that.
type processDiff struct {
	Pid     int        `json:"pid"`
	Args    []string   `json:"args"`
	In      string     `json:"in"` // "both", "a" or "b"
	Threads []change   `json:"threads"`
	Maps    []change   `json:"maps"`
	FDs     []change   `json:"fds"`
	Pages   *pagesDiff `json:"pages,omitempty"`
}

// objectDiff is how the content of a shared memory object differs.
type objectDiff struct {
	Name  string    `json:"name"`
	Pages pagesDiff `json:"pages"`
}

// change is a thing that came, went, or is another one.
type change struct {
	What string `json:"what"` // "added", "removed" or "changed"
	Key  string `json:"key"`  // an address range, a descriptor number, a thread id
	A    string `json:"a,omitempty"`
	B    string `json:"b,omitempty"`
}

// pagesDiff is how memory differs.
type pagesDiff struct {
	Same    uint64 `json:"same"`
	Changed uint64 `json:"changed"`
	Added   uint64 `json:"added"`
	Removed uint64 `json:"removed"`
	Bytes   uint64 `json:"bytes"` // that differ, in the changed pages
}

func diff(c *call) error {
	refA, refB, err := diffRefs(c)
	if err != nil {
		return err
	}
	a, err := image.View(refA)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := image.View(refB)
	if err != nil {
		return err
	}
	defer b.Close()
	d := diffJSON{A: infoOf(a.Info()), B: infoOf(b.Info()), Processes: []processDiff{}, Objects: []objectDiff{}}
	if err := d.processes(c, a, b); err != nil {
		return err
	}
	if err := d.objects(c, a, b); err != nil {
		return err
	}
	if c.json {
		return c.object(d)
	}
	return c.print(diffText(d))
}

// diffRefs finds out which images are meant.
func diffRefs(c *call) (a, b string, err error) {
	dir, _, err := image.SplitRef(c.args[0])
	switch {
	case err != nil:
		return "", "", err
	case len(c.args) == 2 && strings.HasPrefix(c.args[1], "@"):
		return c.args[0], dir + c.args[1], nil
	case len(c.args) == 2:
		return c.args[0], c.args[1], nil
	}
	r, err := image.View(c.args[0])
	if err != nil {
		return "", "", err
	}
	defer r.Close()
	nodes, err := image.Tree(dir)
	i := slices.IndexFunc(nodes, func(n image.Node) bool { return n.ID == r.Info().ID })
	switch {
	case i >= 0 && nodes[i].Base != "":
		return dir + "@" + nodes[i].Base, c.args[0], nil
	case err != nil:
		return "", "", err
	}
	return "", "", usageError(c.verb, c.args[0], "it continues no image of the store; name the one to compare it with")
}

// processes compares the processes of two images.
func (d *diffJSON) processes(c *call, a, b *image.Reader) error {
	sa, sb := a.State(), b.State()
	for i := range sa.Processes {
		p := &sa.Processes[i]
		q := findProcess(sb, p.Pid)
		if q == nil {
			d.Processes = append(d.Processes, onlyIn("a", p))
			continue
		}
		pd := processDiff{
			Pid: p.Pid, Args: q.Args, In: "both",
			Threads: compareItems(threadItems(p), threadItems(q)),
			Maps:    compareItems(vmaItems(p), vmaItems(q)),
			FDs:     compareItems(fdItems(sa, p), fdItems(sb, q)),
		}
		pages, err := image.DiffPages(c.ctx, a, p.Space, b, q.Space)
		if err != nil {
			return err
		}
		pd.Pages = pagesOf(pages)
		d.Processes = append(d.Processes, pd)
	}
	for i := range sb.Processes {
		if q := &sb.Processes[i]; findProcess(sa, q.Pid) == nil {
			d.Processes = append(d.Processes, onlyIn("b", q))
		}
	}
	return nil
}

// onlyIn is a process that one of the images alone has.
func onlyIn(which string, p *model.Process) processDiff {
	return processDiff{Pid: p.Pid, Args: p.Args, In: which, Threads: []change{}, Maps: []change{}, FDs: []change{}}
}

// objects compares the shared memory that both images have.
func (d *diffJSON) objects(c *call, a, b *image.Reader) error {
	for i := range a.State().Shmems {
		x := &a.State().Shmems[i]
		for j := range b.State().Shmems {
			y := &b.State().Shmems[j]
			if x.Dev != y.Dev || x.Ino != y.Ino {
				continue
			}
			pages, err := image.DiffPages(c.ctx, a, x.Space, b, y.Space)
			if err != nil {
				return err
			}
			name := y.Name
			if name == "" {
				name = fmt.Sprintf("inode %d", y.Ino)
			}
			d.Objects = append(d.Objects, objectDiff{name, *pagesOf(pages)})
		}
	}
	return nil
}

func pagesOf(p image.PageDiff) *pagesDiff {
	return &pagesDiff{p.Same, p.Changed, p.Added, p.Removed, p.Bytes}
}

func findProcess(st *model.State, pid int) *model.Process {
	i := slices.IndexFunc(st.Processes, func(p model.Process) bool { return p.Pid == pid })
	if i < 0 {
		return nil
	}
	return &st.Processes[i]
}

// item is one thing of a process: where it stands in order, what it is called, and all that can change of it.
type item struct {
	order     uint64
	key, text string
}

func threadItems(p *model.Process) []item {
	var out []item
	for i := range p.Threads {
		out = append(out, item{uint64(p.Threads[i].Tid), itoa(p.Threads[i].Tid), p.Threads[i].Comm})
	}
	return out
}

func vmaItems(p *model.Process) []item {
	var out []item
	for i := range p.VMAs {
		v := &p.VMAs[i]
		name := v.Name
		if v.File.Path != "" {
			name = fmt.Sprintf("%s +%#x", v.File.Path, v.Offset)
		}
		text := fmt.Sprintf("%s %s %s", bytesText(v.End-v.Start), protText(v), v.Kind)
		out = append(out, item{v.Start, fmt.Sprintf("%x", v.Start), strings.TrimSpace(text + " " + name)})
	}
	return out
}

func fdItems(st *model.State, p *model.Process) []item {
	var out []item
	for _, d := range p.FDs {
		text := ""
		for i := range st.Files {
			if f := &st.Files[i]; f.ID == d.File {
				text = fmt.Sprintf("%s %s at %d", f.Path, openFlags(f.Flags), f.Pos)
			}
		}
		if d.Cloexec {
			text += " cloexec"
		}
		out = append(out, item{uint64(d.Num), itoa(d.Num), text})
	}
	return out
}

// compareItems compares two lists in order.
func compareItems(a, b []item) []change {
	out := []change{}
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].order < b[0].order:
			out = append(out, change{"removed", a[0].key, a[0].text, ""})
			a = a[1:]
		case len(a) == 0 || b[0].order < a[0].order:
			out = append(out, change{"added", b[0].key, "", b[0].text})
			b = b[1:]
		default:
			if a[0].text != b[0].text {
				out = append(out, change{"changed", a[0].key, a[0].text, b[0].text})
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// diffText is the difference for people.
func diffText(d diffJSON) string {
	var t strings.Builder
	t.WriteString(table([][]string{imageRow("a", d.A), imageRow("b", d.B)}))
	for i := range d.Processes {
		p := &d.Processes[i]
		switch p.In {
		case "a":
			fmt.Fprintf(&t, "\n- PROCESS %d: %s\n", p.Pid, cmdline.Text(p.Args))
		case "b":
			fmt.Fprintf(&t, "\n+ PROCESS %d: %s\n", p.Pid, cmdline.Text(p.Args))
		default:
			fmt.Fprintf(&t, "\nPROCESS %d: %s\n", p.Pid, cmdline.Text(p.Args))
			t.WriteString("  memory: " + pagesText(p.Pages) + "\n")
			t.WriteString(changesText("THREADS", p.Threads) + changesText("MAPPINGS", p.Maps) +
				changesText("DESCRIPTORS", p.FDs))
		}
	}
	for _, o := range d.Objects {
		fmt.Fprintf(&t, "\nSHARED MEMORY %s\n  %s\n", visible(o.Name), pagesText(&o.Pages))
	}
	return t.String()
}

func imageRow(which string, i infoJSON) []string {
	return []string{
		which, i.Dir + "@" + imageName(i.Name, i.ID), i.ID,
		time.Unix(0, cmp.Or(i.Moment, i.Created)).Format(time.DateTime),
	}
}

func pagesText(p *pagesDiff) string {
	if p.Changed+p.Added+p.Removed == 0 {
		return fmt.Sprintf("the same, %d pages", p.Same)
	}
	return fmt.Sprintf("%d pages changed (%s differ), %d added, %d removed, %d the same", p.Changed, bytesText(p.Bytes),
		p.Added, p.Removed, p.Same)
}

func changesText(title string, list []change) string {
	if len(list) == 0 {
		return ""
	}
	var rows [][]string
	for _, c := range list {
		switch c.What {
		case "added":
			rows = append(rows, []string{"+", c.Key, c.B})
		case "removed":
			rows = append(rows, []string{"-", c.Key, c.A})
		default:
			rows = append(rows, []string{"~", c.Key, c.A + " -> " + c.B})
		}
	}
	return fmt.Sprintf("  %s (%d)\n%s", title, len(list), indent(indent(table(rows))))
}
