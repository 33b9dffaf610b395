package fault

// Codes about watches and their control sockets.
const (
	Watched       Code = "E_WATCHED"
	WatchGone     Code = "E_WATCH_GONE"
	ControlSocket Code = "E_CONTROL_SOCKET"
	NoWatch       Code = "E_NO_WATCH"
)

var watchCodes = []Entry{
	{
		Watched, Failed, "the process is already watched",
		"One watch holds the probes and the table of a process; a second would record everything twice.",
		"use the running watch (bpfckpt watch --list), or end it first",
	},
	{
		WatchGone, Failed, "the watch ended before it answered",
		"The watch was ended, or its process ended, while it did what was asked. A snapshot under way was given up: no part of it stays.", "try again: without a watch the command does the work itself",
	},
	{NoWatch, Failed, "no watch follows the process", "There is nothing to end: the watch has ended by itself, or there was none.", "`bpfckpt watch --list` shows the watches that run"},
	{
		ControlSocket, Failed, "the control socket of a watch cannot be used",
		"The directory of the sockets cannot be written, or what answers there is of a later version of bpfckpt, or does not answer.", "run as root; end watches of a later version with the command they are of",
	},
}
