package plan

import (
	"slices"
	"strings"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// Shared refuses what the state has the content of and somebody outside the tree has too: each of the two would go on
// with one of its own. What nobody changes may be two.
func Shared(st *model.State, held model.Holders) fault.List {
	var list fault.List
	for _, o := range st.Shareable() {
		if !o.Content {
			continue
		}
		by := held.Others(o.ID)
		i := slices.IndexFunc(by, func(h model.Holder) bool { return h.Write || o.Writes })
		if i < 0 {
			continue
		}
		list = append(list, fault.New(fault.Mapping, o.What,
			"%s is shared with %s, outside the tree: it would become two", o.Links[0], by[i].Text()).
			WithRemedy("save the process that started them both, or let one of them give it up"))
	}
	slices.SortFunc(list, func(a, b *fault.Error) int { return strings.Compare(a.Object, b.Object) })
	return list
}
