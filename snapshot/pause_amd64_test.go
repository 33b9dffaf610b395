package snapshot

import "golang.org/x/sys/unix"

const sysPause = unix.SYS_PAUSE // the call that pause(3) makes
