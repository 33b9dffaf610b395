package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bpfckpt/bpfckpt/image"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

func logVerb() *verb {
	return &verb{
		name: "log", operands: "DIR", min: 1, max: 1, short: "draw the images of a store as a tree",
		long: "Lists the images of a store, the newest first, each above the one it continues. Going back to an older image with restore\n" +
			"DIR@NAME and saving again makes a branch. The columns are id, name, the moment it shows (the freeze), what the image takes on\n" +
			"disk, the memory in it, how much of that it shares with other images, and how long the processes stood still in that freeze. An\n" +
			"asterisk marks the head: the image that DIR alone means. With --json each image is one object on a line of its own, the newest first.",
		examples: []example{
			{"bpfckpt log job", "the tree"},
			{"bpfckpt log job --json | jq -r 'select(.head).id'", "the id of the head"},
		},
		exits: []fault.Class{fault.Failed, fault.BadImage},
		run:   logImages,
	}
}

// logJSON is an image as `log --json` prints it.
type logJSON struct {
	infoJSON
	Base      string   `json:"base"` // the nearest ancestor that is still there
	Head      bool     `json:"head"`
	Referrers []string `json:"borrowers"`
}

func logImages(c *call) error {
	if _, name, err := image.SplitRef(c.args[0]); err != nil || name != "" {
		if err == nil {
			err = usageError(c.verb, c.args[0], "log shows a whole store")
		}
		return err
	}
	nodes, err := image.Tree(c.args[0])
	if len(nodes) == 0 && err != nil {
		return err
	}
	nodes = drawOrder(nodes)
	if !c.json {
		if perr := c.print(logText(nodes)); perr != nil {
			return perr
		}
		return err // of the damaged ones
	}
	for i := range nodes {
		n := &nodes[i]
		line := logJSON{infoOf(n.Info), n.Base, n.Head, append([]string{}, n.Referrers...)}
		if perr := c.object(line); perr != nil {
			return perr
		}
	}
	return err
}

// drawOrder sorts images so that each is above the one it continues, and newer ones above older ones otherwise.
func drawOrder(nodes []image.Node) []image.Node {
	waiting := map[string]int{} // id -> images that continue it and are not out yet
	for i := range nodes {
		waiting[nodes[i].Base]++
	}
	rest := slices.Clone(nodes)
	slices.Reverse(rest) // newest first
	var out []image.Node
	for len(rest) > 0 {
		i := max(0, slices.IndexFunc(rest, func(n image.Node) bool { return waiting[n.ID] == 0 }))
		waiting[rest[i].Base]--
		out = append(out, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

// logText draws the tree: one row for each image, and one where branches meet.
func logText(nodes []image.Node) string {
	if len(nodes) == 0 {
		return ""
	}
	rows := [][]string{{"", "ID", "NAME", "TAKEN", "ON DISK", "MEMORY", "SHARED", "FREEZE"}}
	var g graph
	for i := range nodes {
		n := &nodes[i]
		above, line, below := g.node(n.ID, n.Base)
		for _, l := range above {
			rows = append(rows, []string{l})
		}
		freeze, name := "-", n.Name
		if n.Freeze > 0 {
			freeze = durationText(time.Duration(n.Freeze))
		}
		if n.Head {
			name = strings.TrimSpace(name + " *")
		}
		memory := n.PagesWritten + n.PagesShared
		rows = append(rows, []string{
			line, n.ID, name, n.Taken().Format(time.DateTime), bytesText(n.BytesWritten),
			bytesText(memory * model.PageSize), percentText(n.PagesShared, memory), freeze,
		})
		for _, l := range below {
			rows = append(rows, []string{l})
		}
	}
	return table(rows)
}

// percentText prints a share.
func percentText(part, whole uint64) string {
	if whole == 0 || part == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*float64(part)/float64(whole))
}

// graph draws lanes from images to those they continue, as far down as they go.
type graph struct {
	lanes []string // the id each lane leads to
}

// node draws an image and what has to be drawn above it, where branches meet, and below, where a lane ends.
func (g *graph) node(id, base string) (above []string, line string, below []string) {
	at := slices.Index(g.lanes, id)
	if at < 0 {
		at = len(g.lanes)
		g.lanes = append(g.lanes, id)
	}
	for other := len(g.lanes) - 1; other > at; other-- {
		if g.lanes[other] == id {
			above = append(above, g.meet(at, other))
			g.lanes = slices.Delete(g.lanes, other, other+1)
		}
	}
	line = lane("| ", at) + "o " + lane("| ", len(g.lanes)-at-1)
	if base != "" {
		g.lanes[at] = base
		return above, strings.TrimRight(line, " "), nil
	}
	if right := len(g.lanes) - at - 1; right > 0 {
		below = append(below, strings.TrimRight(lane("| ", at)+" "+lane("/ ", right), " "))
	}
	g.lanes = slices.Delete(g.lanes, at, at+1)
	return above, strings.TrimRight(line, " "), below
}

// meet draws how the lane other joins the lane at, on its left, and those beyond it move up.
func (g *graph) meet(at, other int) string {
	s := lane("| ", at) + lane("|_", other-at-1) + "|/ " + lane("/ ", len(g.lanes)-other-1)
	return strings.TrimRight(s, " ")
}

func lane(s string, n int) string { return strings.Repeat(s, max(0, n)) }
