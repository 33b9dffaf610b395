package model

import "fmt"

var _ = registerFD(FDKind{
	Name: "inotify", Rank: 150, New: func() Payload { return new(Inotify) }, Instance: true,
	Rows: []FDRow{{
		"inotify", "names and numbers of its watches",
		"a new instance. A new watch may get the number of one that was removed. Refused while it holds unread events, or if something watched was deleted",
	}},
})

// Inotify is what an inotify instance watches (inotify(7)).
type Inotify struct {
	Watches []Watch `json:"watches"` // ascending
}

// Watch is one watch of an inotify instance (inotify_add_watch(2)).
type Watch struct {
	WD   int    `json:"wd"`
	Path string `json:"path"`
	Mask uint32 `json:"mask"`
}

// Check checks numbers and names.
func (n *Inotify) Check() error {
	last := -1
	for _, w := range n.Watches {
		if w.WD <= last || !path(w.Path) {
			return fmt.Errorf("watch %d: out of order, or not of an absolute path", w.WD)
		}
		last = w.WD
	}
	return nil
}
