package restore

import (
	"github.com/bpfckpt/bpfckpt/internal/carry"
	"github.com/bpfckpt/bpfckpt/internal/view"
)

// release lets every process run. Nothing fails after the first thread is released but the death of a process, which is
// its own affair. image is the id of what they come from.
func release(j *journal, t *tree, s *signals, image string) error {
	if err := j.step("release"); err != nil {
		return err
	}
	for _, p := range t.living() {
		carryUsage(j, t.view, p, image)
		if err := s.queueStops(p); err != nil {
			return err
		}
	}
	// Nothing of ours may be open when the first of them runs: a pipe would not report its end.
	j.close()
	if err := t.letGo(); err != nil {
		return err
	}
	carry.Sweep(t.view)
	return nil
}

// carryUsage records what the process used in its earlier lives for the next snapshot, whose parent is the image.
// Losing it makes a total too small, no more.
func carryUsage(j *journal, v *view.View, p *process, image string) {
	id, err := v.Process(p.pid)
	if err == nil {
		err = carry.Put(v, id, carry.Record{Usage: p.rec.Carried.Add(p.rec.Usage), Image: image})
	}
	if err != nil {
		j.note("the resource usage of %s so far will be missing from its total, and its next image has no parent: %v",
			p.object(), err)
	}
}
