package fault

// Codes about descriptors: what keeps one from being saved, and what keeps one from being rebuilt.
const (
	FDSocket   Code = "E_FD_SOCKET"
	FDKind     Code = "E_FD_KIND"
	FDPipe     Code = "E_FD_PIPE"
	FDDevice   Code = "E_FD_DEVICE"
	FDPseudo   Code = "E_FD_PSEUDO"
	FDDeleted  Code = "E_FD_DELETED"
	FDLease    Code = "E_FD_LEASE"
	FDNotify   Code = "E_FD_NOTIFY"
	FDInfo     Code = "E_FD_INFO"
	FDState    Code = "E_FD_STATE"
	FDRead     Code = "E_FD_READ"
	FDRebuild  Code = "E_FD_REBUILD"
	FDLocked   Code = "E_FD_LOCKED"
	FDRecord   Code = "E_FD_RECORD"
	FDTailSave Code = "E_FD_TAIL"
)

var fdCodes = []Entry{
	{
		FDSocket, Unsupported, "an open socket",
		"A socket's peer, its queues and its protocol state live outside the process.",
		"let the program close the socket first; a socket on standard input, output or error is re-attached",
	},
	{
		FDKind, Unsupported, "a descriptor of a kind that cannot be saved",
		"The object behind the descriptor holds kernel state that cannot be read out and put back.",
		"let the program close the descriptor first",
	},
	{
		FDPipe, Unsupported, "a pipe shared with a process outside",
		"A process outside the tree holds an end of the pipe, and would not be restored with it.",
		"name the process that started them both, or let the pipe be a standard stream",
	},
	{
		FDDevice, Unsupported, "an open device",
		"What a device driver keeps for an open descriptor cannot be read out.",
		"let the program close the device first",
	},
	{
		FDPseudo, Unsupported, "a file the kernel makes up",
		"A file of a pseudo file system shows or holds the state of something that exists only now.",
		"let the program close the file first",
	},
	{
		FDDeleted, Unsupported, "a file whose name is gone",
		"The file is open but no name that leads to it is known, and its content is not all of it: it has another name, or is not a regular file.", "give the file a name again, or let the program close it",
	},
	{
		FDLease, Unsupported, "a file lease",
		"A lease (fcntl F_SETLEASE) is a promise of the kernel about other openers that cannot be taken over.",
		"let the program give the lease back first",
	},
	{
		FDNotify, Unsupported, "directory change notification", "dnotify (fcntl F_NOTIFY) state cannot be read out.",
		"let the program use inotify, or close the directory",
	},
	{
		FDInfo, Unsupported, "a descriptor with unknown properties",
		"The kernel reports a property of the descriptor that this version does not know.", "use a newer version",
	},
	{
		FDState, Unsupported, "a descriptor in a state that cannot be saved",
		"The kind is supported, this state of it is not.", "read the cause",
	},
	{
		FDRead, Failed, "a descriptor could not be read", "The kernel refused a query about an open descriptor.",
		"run as root; report it with the message if you are",
	},
	{
		FDRebuild, RolledBack, "a descriptor could not be rebuilt",
		"A system call that makes a descriptor again failed, or did not give what the image records.", "read the cause",
	},
	{
		FDLocked, RolledBack, "a file lock is taken",
		"Another process holds a lock on a file that the image's processes had locked.",
		"let the other process release the lock",
	},
	{
		FDRecord, BadImage, "a descriptor record makes no sense",
		"The image's record of a descriptor contradicts itself or is of a kind this version does not know.",
		"use the version that wrote the image, or take the snapshot again",
	},
	{
		FDTailSave, RolledBack, "what was appended since could not be saved",
		"A file that the image's processes append to has grown since the snapshot. It must be cut back, and what is cut off could not be saved first.", "make room in, or rights on, the directory of the images",
	},
}
