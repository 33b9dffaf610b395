package restore

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// A restore is repeated if an id is taken by nobody, but not if it is somebody's, and not for ever.
func TestAgain(t *testing.T) {
	nobody := fault.New(fault.PidTaken, "id 7", "clone3: %w", unix.EEXIST)
	somebody := occupant{id: 7, role: "process", pid: 7, comm: "x", state: "S"}.fault()
	for _, test := range []struct {
		name  string
		errs  []error // of one attempt after the other, the last of all that follow
		tries int
		want  error
	}{
		{"at once", []error{nil}, 1, nil},
		{"in a moment", []error{nobody, nobody, nil}, 3, nil},
		{"never", []error{nobody}, idAttempts, nobody},
		{"somebody's", []error{somebody}, 1, somebody},
		{"nobody's, then somebody's", []error{nobody, somebody}, 2, somebody},
	} {
		t.Run(test.name, func(t *testing.T) {
			tries := 0
			_, err := again(t.Context(), func() (*Result, error) {
				tries++
				return nil, test.errs[min(tries, len(test.errs))-1]
			})
			if tries != test.tries || !errors.Is(err, test.want) {
				t.Errorf("%d attempts, %v; want %d, %v", tries, err, test.tries, test.want)
			}
		})
	}
}
