package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/bpfckpt/bpfckpt/internal/control"
	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/snapshot"
)

// snapRequest is the snap verb's options on their way to a watch.
type snapRequest struct {
	Options snapshot.Options `json:"options"`
}

// answer serves one request of another command.
func (wt *watching) answer(ctx context.Context, req control.Request, progress func(done, total int64)) (any, error) {
	switch req.Op {
	case control.OpStatus:
		return wt.status(ctx)
	case control.OpEnd:
		return wt.endFor(req.Options)
	case control.OpSnap:
		var r snapRequest
		if err := json.Unmarshal(req.Options, &r); err != nil {
			return nil, fault.New(fault.ControlSocket, "request", "%w", err)
		}
		r.Options.Progress = progress
		wt.uses.Add(1)
		res, err := wt.snapper.snap(ctx, r.Options)
		if err != nil {
			wt.uses.Add(-1)
		}
		return res, err
	}
	return nil, fault.New(fault.ControlSocket, "request", "unknown operation %q", req.Op)
}

// endAnswer is the answer to the request to end.
type endAnswer struct {
	Used bool `json:"used,omitempty"` // it goes on: somebody makes use of it, and it was to end only if nobody does
}

// endFor ends the watch at somebody's request.
func (wt *watching) endFor(options json.RawMessage) (endAnswer, error) {
	var o endOptions
	if len(options) > 0 {
		if err := json.Unmarshal(options, &o); err != nil {
			return endAnswer{}, fault.New(fault.ControlSocket, "request", "%w", err)
		}
	}
	if o.Unused && wt.uses.Load() > 0 {
		return endAnswer{Used: true}, nil
	}
	wt.end()
	return endAnswer{}, nil
}

// listWatches prints the watches that run.
func listWatches(c *call) error {
	found, err := control.List()
	if err != nil {
		return err
	}
	all := []watchStatus{}
	for _, f := range found {
		s, err := askStatus(c.ctx, f)
		switch {
		case err == nil:
			all = append(all, s)
		case !errors.Is(err, &fault.Error{Code: fault.WatchGone}) && !gone(err, f.Pid): // else it has just ended
			c.note("%v", err)
		}
	}
	if c.json {
		return c.object(map[string]any{"watches": all})
	}
	rows := [][]string{{"PID", "COMMAND", "WATCHER", "SINCE", "PROCESSES", "EVENTS", "LOST", "DRIFT", "SAVED"}}
	for _, s := range all {
		rows = append(rows, []string{
			strconv.Itoa(s.Pid), s.Comm, strconv.Itoa(s.Watcher),
			durationText(time.Duration(s.SinceUS) * time.Microsecond),
			strconv.Itoa(s.Stats.Groups), decimal(s.Stats.Events), decimal(s.Stats.Lost), decimal(s.Stats.Drift),
			savedText(s.Saves),
		})
	}
	if len(all) == 0 {
		return c.print("no watch is running\n")
	}
	return c.print(table(rows))
}

// askStatus asks a watch about itself. It closes the connection.
func askStatus(ctx context.Context, f control.Found) (s watchStatus, err error) {
	defer f.Client.Close()
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	err = f.Client.Do(asking, control.OpStatus, nil, &s, nil)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = fault.New(fault.ControlSocket, pidText(f.Pid), "its watch, pid %d, does not answer", f.Client.Peer())
	}
	s.Pid, s.Watcher = f.Pid, f.Client.Peer() // as we see them
	return s, err
}

// savedText is what the list of watches tells of periodic snapshots.
func savedText(s *saves) string {
	switch {
	case s == nil:
		return "-"
	case s.Failure != "":
		return s.Failure
	}
	return fmt.Sprintf("%d in %s, every %s", s.Taken, s.Dir, s.interval())
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

// serveMetrics serves the figures of the watch in the text format of Prometheus, exposition format 0.0.4.
func (wt *watching) serveMetrics(address string) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.New(fault.BadUsage, "--metrics", "%w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		s, err := wt.status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		for _, m := range s.metrics() {
			fmt.Fprintf(w, "# HELP bpfckpt_%s %s\n# TYPE bpfckpt_%s %s\nbpfckpt_%s{pid=\"%d\"} %d\n", m.name, m.help,
				m.name, m.kind, m.name, s.Pid, m.value)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = srv.Serve(l) }() // it ends with Close
	return func() { _ = srv.Close() }, nil
}

// metric is one figure.
type metric struct {
	name, kind, help string
	value            uint64
}

func (s *watchStatus) metrics() []metric {
	list := []metric{
		{"watch_events_total", "counter", "Records of state-changing calls taken from the kernel.", s.Stats.Events},
		{"watch_lost_total", "counter", "Records that the ring had no room for.", s.Stats.Lost},
		{"watch_repairs_total", "counter", "Parts of a process's state that were read again.", s.Stats.Repairs},
		{"watch_drift_total", "counter", "Fields in which the table differed from the kernel.", s.Stats.Drift},
		{"watch_processes", "gauge", "Processes that are followed.", uint64(s.Stats.Groups)},
		{"watch_threads", "gauge", "Threads that are followed.", uint64(s.Stats.Threads)},
		{"watch_maps", "gauge", "Mappings of the followed processes.", uint64(s.Stats.Maps)},
		{"watch_fds", "gauge", "Descriptors of the followed processes.", uint64(s.Stats.FDs)},
		{"watch_rss_bytes", "gauge", "Resident memory of the root process.", uint64(s.RSSBytes)},
	}
	if s.Saves == nil {
		return list
	}
	return append(list,
		metric{"watch_snapshots_total", "counter", "Periodic snapshots taken.", s.Saves.Taken},
		metric{"watch_snapshots_failed_total", "counter", "Periodic snapshots that failed.", s.Saves.Failed},
		metric{
			"watch_snapshot_freeze_microseconds", "gauge",
			"How long the processes stood still for the newest periodic snapshot.", uint64(s.Saves.Freeze),
		})
}
