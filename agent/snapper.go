package agent

import (
	"context"
	"errors"

	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// Snapper takes the snapshots of one tree for as long as its holder lives, one at a time. From the first incremental
// one on it tracks what the tree writes, so that the next one reads no more than that.
type Snapper struct {
	root    int
	opts    SnapperOptions
	turn    chan struct{} // full while a snapshot is under way
	tracker dirty.Tracker // of whose turn it is; nil before the first incremental snapshot
}

// SnapperOptions says of whom a Snapper takes snapshots, and with what. The zero value of each field is its default.
type SnapperOptions struct {
	ID   procid.ID                   // of the root; zero: whoever has its pid
	Live func() kstate.Source        // the source of kernel state; nil: each snapshot opens its own
	Late func() func() kstate.Source // makes Live when it turns out to be needed; nil: nothing does
}

// NewSnapper makes the Snapper of the tree below and including root.
func NewSnapper(root int, o SnapperOptions) *Snapper {
	return &Snapper{root: root, opts: o, turn: make(chan struct{}, 1)}
}

// Snap takes one snapshot, after those that are under way. Options.Tracker, Root and Live are the Snapper's. Errors are
// those of snapshot.Snap.
func (s *Snapper) Snap(ctx context.Context, o snapshot.Options) (*snapshot.Result, error) {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.turn }()
	if o.Incremental && s.tracker == nil {
		tr, err := dirty.New("")
		if err != nil {
			return nil, err
		}
		s.tracker = tr
	}
	o.Tracker, o.Root = s.tracker, s.opts.ID
	if s.opts.Live != nil {
		o.Live = s.opts.Live()
	}
	res, err := snapshot.Snap(ctx, s.root, o)
	if s.opts.Live == nil && s.opts.Late != nil && errors.Is(err, &fault.Error{Code: fault.Regions}) {
		if s.opts.Live = s.opts.Late(); s.opts.Live != nil {
			o.Live = s.opts.Live()
			res, err = snapshot.Snap(ctx, s.root, o)
		}
	}
	return res, err
}

// Close ends the tracking, after the snapshot that is under way. No other may follow, and no second Close.
func (s *Snapper) Close() {
	s.turn <- struct{}{}
	if s.tracker != nil {
		_ = s.tracker.Close() // descriptors only
	}
}
