package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/bpfckpt/bpfckpt/agent"
	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// serveMetrics serves the figures of a watch in the text format of Prometheus, exposition format 0.0.4.
func serveMetrics(address string, status func(context.Context) (agent.Status, error)) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.New(fault.BadUsage, "--metrics", "%w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		s, err := status(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		for _, m := range metricsOf(&s) {
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

func metricsOf(s *agent.Status) []metric {
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
