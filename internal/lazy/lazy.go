// Package lazy brings the memory of restored processes after they run already. It is the server behind `restore
// --lazy`.
//
// Each restored process has a userfaultfd, made by itself, with which its private anonymous mappings are registered. A
// thread that touches a page which is not there waits until the server, a process of its own, puts it there; in between
// the server brings all others. Then it closes the userfaultfds, and the memory is as any other.
//
// What makes this safe (docs/adr/0020 tells more):
//
//   - The kernel lets go of the mappings when the last descriptor of a userfaultfd is closed, and pages that never came would read as zeros. So the last
//     one must not go with the server. The guard (guard_unsafe.go) shares the server's table of descriptors, not a copy of it, so even a userfaultfd that came
//     into being a moment ago has two holders. When the server dies, the guard becomes the orphanage (orphan.go), which marks all missing pages
//     as poisoned: to touch one is a SIGBUS.
//   - The process goes on to unmap, move and discard memory, and to fork. It is made to wait until the server has read a message about that, and
//     while one is unread the kernel refuses to add pages (EAGAIN). The server is one loop on one goroutine: no page is on its way while a message
//     is read, and each is put where the messages so far say.
//   - A frame whose checksum does not match is not used: its pages are poisoned, and this is said.
//
// The parts: uffd_unsafe.go the kernel interface; memory.go where what belongs; server.go the loop; fill.go pages;
// guard_unsafe.go and orphan.go what happens when the server dies; client.go the side of the restore and of snapshots.
package lazy

import (
	"errors"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
)

// The hidden verbs that run Serve and Orphanage.
const (
	ServeVerb     = "__lazy-serve"
	OrphanageVerb = "__lazy-orphanage"
)

// Process is a process whose memory is to come.
type Process struct {
	Pid   int           `json:"pid"` // as the server sees it
	Space model.Space   `json:"space"`
	FD    int           `json:"fd"`    // number of the userfaultfd in the process that does the restore
	Areas []model.Range `json:"areas"` // the registered mappings, ascending
	There []model.Range `json:"there"` // pages of them that have come already, ascending
	Huge  []model.Range `json:"huge"`  // what is to be of huge pages when all has come, ascending
}

// request is one line from the restore to the server.
type request struct {
	Process *Process `json:"process,omitempty"`
	// the processes are about to run, nothing is taken back any more; the id of the image
	Run   string `json:"run,omitempty"`
	Abort bool   `json:"abort,omitempty"` // the restore has failed
}

// answer is one line back.
type answer struct {
	Error string       `json:"error,omitempty"`
	Fault *fault.Error `json:"fault,omitempty"` // instead of Error
	Pages int          `json:"pages,omitempty"` // how many are to come
}

// failed is the answer that tells of an error.
func failed(err error) answer {
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		return answer{Fault: &fault.Error{Code: f.Code, Object: f.Object, Cause: f.Cause, Remedy: f.Remedy}}
	}
	return answer{Error: err.Error()}
}
