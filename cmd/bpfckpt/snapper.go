package main

import (
	"context"
	"errors"

	"github.com/bpfckpt/bpfckpt/internal/dirty"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/internal/kstate"
	"github.com/bpfckpt/bpfckpt/internal/procid"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// snapper takes the snapshots of one tree for as long as its holder lives, one at a time. From the first incremental
// one on it tracks what the tree writes, so that the next one reads no more than that.
type snapper struct {
	root    int
	id      procid.ID                   // of the root; zero: whoever has its pid
	live    func() kstate.Source        // the source of kernel state; nil: each snapshot opens its own
	late    func() func() kstate.Source // makes live when it turns out to be needed; nil: nothing does
	turn    chan struct{}               // full while a snapshot is under way
	tracker dirty.Tracker               // of whose turn it is; nil before the first incremental snapshot
}

func newSnapper(root int, live func() kstate.Source) *snapper {
	return &snapper{root: root, live: live, turn: make(chan struct{}, 1)}
}

// snap takes one snapshot, after those that are under way.
func (s *snapper) snap(ctx context.Context, o snapshot.Options) (*snapshot.Result, error) {
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
	o.Tracker, o.Root = s.tracker, s.id
	if s.live != nil {
		o.Live = s.live()
	}
	res, err := snapshot.Snap(ctx, s.root, o)
	if s.live == nil && s.late != nil && errors.Is(err, &fault.Error{Code: fault.Regions}) {
		if s.live = s.late(); s.live != nil {
			o.Live = s.live()
			res, err = snapshot.Snap(ctx, s.root, o)
		}
	}
	return res, err
}

// close ends the tracking, after the snapshot that is under way. No other may follow.
func (s *snapper) close() {
	s.turn <- struct{}{}
	if s.tracker != nil {
		_ = s.tracker.Close() // descriptors only
	}
}
