package fault

import "slices"

// Codes of the command line itself.
const (
	BadUsage      Code = "E_USAGE"
	Output        Code = "E_OUTPUT"
	Internal      Code = "E_INTERNAL"
	Selftest      Code = "E_SELFTEST"
	NoFeature     Code = "E_KERNEL_FEATURE"
	OtherCommand  Code = "E_OTHER_COMMAND"
	StartCommand  Code = "E_START_COMMAND"
	RunStore      Code = "E_RUN_STORE"
	SnapAtSignal  Code = "E_RUN_SNAPSHOT"
	BeforeRestore Code = "E_RESTORE_OUTPUT"
	NotPorted     Code = "E_NOT_PORTED"
)

var cliCodes = []Entry{
	{BadUsage, Usage, "wrong command line", "A verb, flag or argument is unknown, missing, or does not fit the others.", "see `bpfckpt VERB --help`"},
	{
		Output, Failed, "output could not be written",
		"Standard output, or a file the command was asked to write, took no more data: a full disk, a closed pipe, a missing directory.", "look at where the output goes",
	},
	{
		Internal, Failed, "an unexpected error", "The tool met an error it has no code for.",
		"report it with the message",
	},
	{Selftest, Failed, "the self-test failed", "A canary process did not come back from its snapshot as it was.", "run `bpfckpt check`; do not rely on snapshots of this machine until the self-test passes"},
	{NoFeature, KernelLacks, "this kernel lacks a feature", "Something snapshots or restores cannot do without was tried and failed, see `bpfckpt check`.", "use a newer kernel, or more rights"},
	{OtherCommand, Failed, "the image is of another command", "`run` found an image in its directory that was taken from another command line, and does not guess which of the two is meant.", "give the other command, or another --dir; `bpfckpt restore DIR` goes on with the image's own command"},
	{StartCommand, Failed, "the command could not be started", "`run` could not execute the command: not found, not executable, or a library of it is missing.", "check the command's name and permissions"},
	{RunStore, Failed, "the directory of `run` cannot be used", "The note `run` keeps beside its images (run.json) is damaged, cannot be read or written, or another `run` uses the directory.", "give another --dir"},
	{SnapAtSignal, Failed, "no snapshot at the signal", "`run` was asked to stop, but the snapshot failed; the command runs on so that nothing is lost.", "send the signal again to end the command without a snapshot"},
	{
		BeforeRestore, RolledBack, "the restore could not be reported",
		"The process was restored, but the pid file or the output could not be written, so it was ended again; the image is as it was.", "look at where the output goes, then restore again",
	},
	{
		NotPorted, KernelLacks, "this build cannot do that on this architecture yet",
		"bpfckpt is complete on x86-64; of other architectures docs/architectures.md says what a build for them lacks.", "use an x86-64 machine",
	},
}

// ExitCode describes one exit code of the command.
type ExitCode struct {
	Class   Class
	Title   string // one or two words
	Meaning string // full sentence
}

// exitCodes is sorted by number; 0 is no class of fault, it stands here for the documentation.
var exitCodes = []ExitCode{
	{0, "done", "What was asked for has been done."},
	{Failed, "failed", "It did not work; nothing was harmed, a process that was to be saved runs on."},
	{KernelLacks, "kernel lacks a feature", "This kernel, or the caller's rights on it, lack something."},
	{Unsupported, "process state not supported", "The process holds something that cannot be saved; it is untouched."},
	{
		BadImage, "image damaged or unknown",
		"The image is damaged, incomplete, or of a version this command does not know.",
	},
	{RolledBack, "restore failed", "The restore failed and was rolled back; nothing of it is left."},
	{Usage, "usage", "The command line is wrong."},
	{Interrupted, "interrupted", "A signal ended the command. For `run`: the program was saved and stopped."},
}

// ExitCodes returns the exit codes of the command, ascending. restore and run in the foreground pass on the status of
// the process instead, once there is one.
func ExitCodes() []ExitCode { return slices.Clone(exitCodes) }
