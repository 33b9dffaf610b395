package model

import "fmt"

var _ = registerFD(FDKind{
	Name: "pidfd", Rank: 160, New: func() Payload { return new(PidFD) }, Instance: true,
	Becomes: func(_ *State, f *File, _ bool) string {
		p, ok := f.Of.(*PidFD)
		if !ok {
			return ""
		}
		return fmt.Sprintf("make a new pidfd of pid %d", p.Pid)
	},
	Rows: []FDRow{
		{
			"pidfd of a process of the tree, whether it lives or its parent has not waited for it yet",
			"the process, `PIDFD_THREAD` of its first thread, `PIDFD_NONBLOCK`", "a new pidfd of what the process became",
		},
		{"pidfd of another process, of a further thread, or of a process that was waited for", "refused", ""},
	},
})

// PidFD is what a pidfd leads to (pidfd_open(2)).
type PidFD struct {
	Pid int `json:"pid"`
}

// Refers is the process.
func (p *PidFD) Refers() Refs { return Refs{Pids: []int{p.Pid}} }

// Check finds nothing: Refers has all there is to check.
func (p *PidFD) Check() error { return nil }
