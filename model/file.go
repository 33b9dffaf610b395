package model

// This file is the part of a state that is about descriptors, and the objects behind them.

// FD is one descriptor of one process.
type FD struct {
	Num     int  `json:"num"`
	Cloexec bool `json:"cloexec"`
	File    int  `json:"file"` // ID of a File
}

// File is one open file description. A source fills ID to Path; package fdtable turns that into Kind and what that kind
// has: the payload, which is Of, and of the fields from Size on those that the kind says it may have (FDKind.Fields).
type File struct {
	ID   int    `json:"id"`   // unique in the image, from 1
	Kind string `json:"kind"` // fdtable's name of the kind: "regular", "dir", "chardev", "pipe", "tty", ...
	// open(2) status flags and access mode as fdinfo "flags:" has them, without O_CLOEXEC
	Flags    uint32  `json:"flags"`
	Pos      int64   `json:"pos"`
	Mode     uint32  `json:"mode"` // st_mode of the inode
	Dev      uint64  `json:"dev"`  // st_dev as stat(2) gives it
	Ino      uint64  `json:"ino"`
	Rdev     uint64  `json:"rdev,omitempty"`
	Path     string  `json:"path"`             // as /proc/PID/fd/N reads, " (deleted)" and "pipe:[123]" included
	Opened   *Opened `json:"opened,omitempty"` // how it came to be, if a watch saw it
	Owner    FOwner  `json:"owner,omitzero"`
	Size     int64   `json:"size,omitempty"`   // of a regular file at the freeze
	MTime    int64   `json:"mtime,omitempty"`  // ns, of a regular file at the freeze
	CTime    int64   `json:"ctime,omitempty"`  // ns, of a regular file's inode at the freeze
	Born     int64   `json:"born,omitempty"`   // ns, when a regular file open for writing was made; 0 if unknown
	Tail     uint64  `json:"tail,omitempty"`   // xxhash64 of up to 4 KiB before the end of one that is appended to
	Others   bool    `json:"others,omitempty"` // somebody outside the tree had the regular file open for writing too
	Unlinked int     `json:"ghost,omitempty"`  // 1-based index into State.Unlinked
	Shmem    int     `json:"shmem,omitempty"`  // 1-based index into State.Shmems (memfd)
	Pipe     int     `json:"pipe,omitempty"`   // 1-based index into State.Pipes
	Term     int     `json:"term,omitempty"`   // 1-based index into State.Terminals
	Std      int     `json:"std,omitempty"`    // 1 + N if this is re-attached to the restorer's standard stream N
	// of a directory, FIFO or symbolic link whose name is gone: what it takes to make it again
	Removed *Removed `json:"removed,omitempty"`
	Locks   []Lock   `json:"locks,omitempty"` // file locks held through this description or by this process
	// Of is what only its kind has (FDKind.New), nil if that has none. Package image knows how it is stored.
	Of Payload `json:"-"`

	// the source knows that nobody has a lock or a lease on the file; on its way to fdtable, never stored
	Unlocked bool `json:"-"`
	// of a timerfd: when it runs out, or last did, CLOCK_MONOTONIC of the initial time namespace; 0 if the source
	// cannot tell; never stored
	Expiry int64 `json:"-"`
}

// Removed is what it takes, beside its mode, to make an inode again that has no name any more.
type Removed struct {
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Target string `json:"target,omitempty"` // of a symbolic link
}

// GoneDir is a directory that has no name any more. It is empty, and nothing can be made in it.
type GoneDir struct {
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
	Mode uint32 `json:"mode"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// Opened is how an open file description came to be. Only a watch knows: the kernel does not keep it.
type Opened struct {
	Given    string `json:"given"`    // the path the program gave
	Resolved string `json:"resolved"` // where that led then
	Flags    uint32 `json:"flags"`    // of open(2), O_CREAT and the like included
	Mode     uint32 `json:"mode"`     // of open(2) with O_CREAT
}

// Library is a library that a process loaded with dlopen while it was watched. For people; the truth is in memory.
type Library struct {
	Name  string `json:"name"`  // as given
	Flags int    `json:"flags"` // RTLD_*
}

// FOwner is what F_SETOWN_EX and F_SETSIG set (fcntl(2)).
type FOwner struct {
	Type   int    `json:"type"` // F_OWNER_TID, F_OWNER_PID, F_OWNER_PGRP
	ID     int    `json:"id"`
	Signal int    `json:"signal"`
	UID    uint32 `json:"uid"`
	EUID   uint32 `json:"euid"`
}

// Lock is one file lock as fdinfo "lock:" shows it (fcntl(2), flock(2)).
type Lock struct {
	Type  string `json:"type"` // "FLOCK", "POSIX", "OFDLCK"
	Write bool   `json:"write"`
	Start int64  `json:"start"`
	End   int64  `json:"end"` // inclusive, -1 for EOF
	Pid   int    `json:"pid"`
}

// Shmem is a shared memory object whose content the image holds.
type Shmem struct {
	Space Space  `json:"space"`
	Kind  string `json:"kind"` // "anon" (MAP_SHARED|MAP_ANONYMOUS) or "memfd"
	Name  string `json:"name"` // memfd name
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`  // bytes
	Seals uint32 `json:"seals"` // F_GET_SEALS, memfd only
	Mode  uint32 `json:"mode"`
	UID   uint32 `json:"uid,omitempty"` // who owns it
	GID   uint32 `json:"gid,omitempty"`
	Huge  uint32 `json:"huge,omitempty"` // MFD_HUGETLB and size bits

	Attributes *Attributes `json:"attributes,omitempty"` // of a memfd; nil if they are not known
}

// UnlinkedFile is a regular file that lives only as long as it is open or mapped: it was unlinked, or its name now
// leads elsewhere.
type UnlinkedFile struct {
	Space Space  `json:"space"`
	Path  string `json:"path"` // where it was
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	Mode  uint32 `json:"mode"`
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	// open(2) flags of the description that made it with O_TMPFILE, if that is still open
	Flags uint32 `json:"flags,omitempty"`

	Attributes *Attributes `json:"attributes,omitempty"` // nil if they are not known
}

// Attributes is what an inode without a name has beside content, owner and mode.
type Attributes struct {
	ATime  int64   `json:"atime"`            // of the last access, ns
	MTime  int64   `json:"mtime"`            // of the last change of content, ns
	Hint   uint64  `json:"hint,omitempty"`   // RWH_WRITE_LIFE_* (fcntl(2), F_SET_RW_HINT)
	XAttrs []XAttr `json:"xattrs,omitempty"` // as listed, without labels of the system
}

// XAttr is an extended attribute (xattr(7)).
type XAttr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Pipe is a pipe or FIFO whose both ends are inside the tree.
type Pipe struct {
	Ino      uint64 `json:"ino"`
	Capacity int    `json:"capacity"`          // F_GETPIPE_SZ, bytes
	Data     []byte `json:"data"`              // what was written and not yet read
	Space    Space  `json:"space,omitempty"`   // in an image: what has Data, if that is long. Commit chooses it
	Size     int    `json:"size,omitempty"`    // in an image: bytes of Data, if that is a space
	Packets  []int  `json:"packets,omitempty"` // lengths of the packets of an O_DIRECT pipe
	Path     string `json:"path,omitempty"`    // of a named FIFO
	// bytes in it that no reader of the tree could have read; on its way within fdtable, never stored
	Unread int `json:"-"`
}

// Terminal is a terminal the tree has open and that restore replaces by its own.
type Terminal struct {
	Rdev    uint64 `json:"rdev"`
	Path    string `json:"path"`
	Termios []byte `json:"termios"` // struct termios2 of TCGETS2
	Rows    uint16 `json:"rows"`
	Cols    uint16 `json:"cols"`
	// Foreground is its foreground process group, if it is the controlling terminal of a process of the tree.
	Foreground int `json:"foreground,omitempty"`
}
