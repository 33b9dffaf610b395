package fault

// Codes about dirty page tracking.
const (
	NoTracking  Code = "E_NO_TRACKING"
	TrackFailed Code = "E_TRACK_FAILED"
)

var dirtyCodes = []Entry{
	{
		NoTracking, KernelLacks, "this way of tracking writes does not work here",
		"The kernel lacks the feature, or a trial on memory of ours showed that it does not work. The ways are uffd-wp (Linux 6.7), soft-dirty and compare.", "leave the choice to bpfckpt: it takes the best that works",
	},
	{
		TrackFailed, Failed, "the tracking of written pages failed",
		"The kernel refused a step that works on this machine for other processes. The target is unharmed; without tracking a snapshot reads all of its memory.", "try again; report it with the message if it stays",
	},
}
