package model

var _ = registerFD(FDKind{
	Name: "timerfd", Rank: 120, New: func() Payload { return new(TimerFD) }, Instance: true,
	Rows: []FDRow{{
		"timerfd", "clock, time left, interval, unread expirations",
		"a new timer with the time that was left; a date (`TFD_TIMER_ABSTIME`) stays that date of its clock",
	}},
})

// TimerFD is the state of a timerfd (timerfd_create(2)).
type TimerFD struct {
	Clock    int    `json:"clock"`
	Flags    int    `json:"flags"`    // TFD_TIMER_* it was last set with
	Ticks    uint64 `json:"ticks"`    // expirations not read yet
	Left     int64  `json:"left"`     // ns until the next expiration, 0 if disarmed
	Interval int64  `json:"interval"` // ns
	// Expired is how long ago, in ns, a repeating timer ran out that was not read since: the kernel counts the periods
	// from there, and starts it again, when it is read. 0 if the timer runs or is disarmed.
	Expired int64 `json:"expired,omitempty"`
}

// Check checks the times.
func (t *TimerFD) Check() error {
	return firstBad(
		rule{t.Left < 0 || t.Interval < 0 || t.Clock < 0 || t.Expired < 0, "its time is negative, or its clock none"},
		rule{
			t.Expired != 0 && (t.Interval == 0 || t.Left != 0 || t.Ticks == 0),
			"its timer has run out, but it does not repeat, runs, or was never due",
		},
	)
}
