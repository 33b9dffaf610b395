package integration

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// What the property test promises over randomPromise seeds.
const (
	randomPromise     = 2000 // programs
	randomAccepted    = 70   // percent of them
	randomOccurrences = 20   // of each supported feature in accepted programs, of each other one in refused programs
)

// featureCount is in how many programs a feature stood.
type featureCount struct {
	codes                      []string
	accepted, refused, lacking int
}

func newRandomTable() *randomTable {
	return &randomTable{counts: map[string]*featureCount{}, codes: map[string]int{}}
}

func (table *randomTable) add(tr *trial, failed bool) {
	table.mu.Lock()
	defer table.mu.Unlock()
	table.total++
	if failed {
		table.failed = append(table.failed, tr.seed)
		return
	}
	if tr.accepted {
		table.taken++
	}
	for _, code := range tr.codes {
		table.codes[code]++
	}
	seen := map[string]bool{}
	for _, f := range tr.features {
		if seen[f.name] {
			continue
		}
		seen[f.name] = true
		c := table.counts[f.name]
		if c == nil {
			c = &featureCount{codes: f.codes}
			table.counts[f.name] = c
		}
		switch {
		case f.lacking:
			c.lacking++
		case tr.accepted:
			c.accepted++
		default:
			c.refused++
		}
	}
}

func (table *randomTable) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d programs, %d accepted, %d failed: %v\n", table.total, table.taken, len(table.failed),
		table.failed)
	fmt.Fprintf(&b, "%-48s %8s %8s %8s  %s\n", "FEATURE", "ACCEPTED", "REFUSED", "LACKING", "MAY BE REFUSED WITH")
	for _, name := range slices.Sorted(maps.Keys(table.counts)) {
		c := table.counts[name]
		fmt.Fprintf(&b, "%-48s %8d %8d %8d  %s\n", name, c.accepted, c.refused, c.lacking, strings.Join(c.codes, " "))
	}
	for _, code := range slices.Sorted(maps.Keys(table.codes)) {
		fmt.Fprintf(&b, "%-48s %17d\n", code, table.codes[code])
	}
	return b.String()
}

func (table *randomTable) holdAgainstPromise(t *testing.T) {
	if table.taken*100 < table.total*randomAccepted {
		t.Errorf("%d of %d programs accepted, want %d%%", table.taken, table.total, randomAccepted)
	}
	for _, f := range allFeatures(t) {
		c := table.counts[f.name]
		switch {
		case c == nil:
			t.Errorf("%q stood in no program", f.name)
		case c.lacking > 0:
			t.Logf("this machine lacks %q", f.name)
		case len(f.codes) == 0 && c.accepted < randomOccurrences:
			t.Errorf("%q stood in %d accepted programs, want %d", f.name, c.accepted, randomOccurrences)
		case len(f.codes) > 0 && c.refused < randomOccurrences:
			t.Errorf("%q stood in %d refused programs, want %d", f.name, c.refused, randomOccurrences)
		}
	}
}
