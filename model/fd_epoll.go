package model

var _ = registerFD(FDKind{
	Name: "epoll", Rank: 140, New: func() Payload { return new(Epoll) }, Instance: true,
	Rows: []FDRow{{
		"epoll", "what it watches, with events and data",
		"a new instance, filled from inside the process under the old numbers. What is ready then is told once more where it is told of " +
			"once (`EPOLLET`). Refused: entries whose descriptor was closed while its file " +
			"lives on, one-shot entries that have fired",
	}},
})

// Epoll is what an epoll instance watches (epoll(7)).
type Epoll struct {
	Targets []EpollTarget `json:"targets"`
}

// EpollTarget is one entry of the interest list of an epoll instance (epoll_ctl(2)).
type EpollTarget struct {
	FD     int    `json:"fd"`   // the number it was added under
	File   int    `json:"file"` // ID of the File it watches
	Events uint32 `json:"events"`
	Data   uint64 `json:"data"`
}

// Refers lists what it watches.
func (e *Epoll) Refers() Refs {
	files := make([]int, len(e.Targets))
	for i := range e.Targets {
		files[i] = e.Targets[i].File
	}
	return Refs{Files: files}
}

// Check checks the numbers.
func (e *Epoll) Check() error {
	return each("entry", e.Targets, func(t *EpollTarget) error {
		return firstBad(rule{t.FD < 0 || t.FD >= maxFD, "its number is absurd"})
	})
}
