package image

import (
	"errors"
	"sync"
)

// syncer makes files durable and closes them, all at once: a file system with a journal then writes it once for several
// of them, and not for one after the other.
type syncer struct {
	files sync.WaitGroup
	mu    sync.Mutex
	errs  []error
}

// add takes a file over.
func (s *syncer) add(f DraftFile) {
	s.files.Go(func() {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.errs = append(s.errs, err)
		}
	})
}

// wait returns when all files are durable, or cannot be made so.
func (s *syncer) wait() error {
	s.files.Wait()
	return errors.Join(s.errs...)
}
