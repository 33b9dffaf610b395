package model

var _ = registerFD(FDKind{
	Name: "eventfd", Rank: 110, New: func() Payload { return new(EventFD) }, Instance: true,
	Rows: []FDRow{{"eventfd", "count, semaphore (Linux 6.5 tells; before it is refused)", "a new eventfd"}},
})

// EventFD is the state of an eventfd (eventfd(2)).
type EventFD struct {
	Count     uint64 `json:"count"`
	Semaphore bool   `json:"semaphore"`
}

// Check checks the count.
func (e *EventFD) Check() error {
	// eventfd(2): the largest count is one less
	return firstBad(rule{e.Count == ^uint64(0), "its count is beyond what an eventfd holds"})
}
