package agent

import (
	"context"
	"encoding/json"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// snapRequest is the options of a snapshot on their way to a watch.
type snapRequest struct {
	Options snapshot.Options `json:"options"`
}

// endRequest is the options of the request to end.
type endRequest struct {
	Unused bool `json:"unused"` // only if it has taken no snapshot, and takes none
}

// endAnswer is the answer to the request to end.
type endAnswer struct {
	Used bool `json:"used,omitempty"` // it goes on: somebody makes use of it, and it was to end only if nobody does
}

// answer serves one request of another command.
func (w *Watch) answer(ctx context.Context, req control.Request, progress func(done, total int64)) (any, error) {
	switch req.Op {
	case control.OpStatus:
		return w.Status(ctx)
	case control.OpEnd:
		return w.endFor(req.Options)
	case control.OpSnap:
		var r snapRequest
		if err := json.Unmarshal(req.Options, &r); err != nil {
			return nil, fault.New(fault.ControlSocket, "request", "%w", err)
		}
		r.Options.Progress = progress
		w.uses.Add(1)
		res, err := w.snapper.Snap(ctx, r.Options)
		if err != nil {
			w.uses.Add(-1)
		}
		return res, err
	}
	return nil, fault.New(fault.ControlSocket, "request", "unknown operation %q", req.Op)
}

// endFor ends the watch at somebody's request.
func (w *Watch) endFor(options json.RawMessage) (endAnswer, error) {
	var o endRequest
	if len(options) > 0 {
		if err := json.Unmarshal(options, &o); err != nil {
			return endAnswer{}, fault.New(fault.ControlSocket, "request", "%w", err)
		}
	}
	if o.Unused && w.uses.Load() > 0 {
		return endAnswer{Used: true}, nil
	}
	w.end()
	return endAnswer{}, nil
}
