package model

var _ = registerFD(FDKind{
	Name: "signalfd", Rank: 130, New: func() Payload { return new(SignalFD) }, Instance: true,
	Rows: []FDRow{{"signalfd", "the signals it takes", "a new signalfd"}},
})

// SignalFD is the state of a signalfd (signalfd(2)). The signals themselves are pending in the process.
type SignalFD struct {
	Mask uint64 `json:"mask"` // the signals it takes: bit N-1 for signal N
}

// Check finds nothing: every mask is one.
func (s *SignalFD) Check() error { return nil }
