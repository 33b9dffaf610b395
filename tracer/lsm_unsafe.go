package tracer

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// credModules are the security modules that keep something with credentials (lbs_cred of struct lsm_blob_sizes), by
// number (include/uapi/linux/lsm.h).
var credModules = map[uint64]string{101: "selinux", 102: "smack", 104: "apparmor", 110: "landlock"}

// landlockFirst tells whether Landlock is the first of the security modules that keep something with credentials: then
// the first word of that is its domain, of which no other interface of the kernel tells (struct landlock_cred_security,
// security/landlock/cred.h). It is in every default order.
var landlockFirst = sync.OnceValue(func() bool {
	names, err := lsmModules()
	if err != nil { // before Linux 6.8
		text, err := os.ReadFile("/sys/kernel/security/lsm")
		if err != nil {
			return false
		}
		names = strings.Split(strings.TrimSpace(string(text)), ",")
	}
	known := slices.Collect(maps.Values(credModules))
	first := slices.IndexFunc(names, func(name string) bool { return slices.Contains(known, name) })
	return first >= 0 && names[first] == "landlock"
})

// lsmModules lists those of credModules that are active, in their order (lsm_list_modules(2), Linux 6.8).
func lsmModules() ([]string, error) {
	ids := make([]uint64, 64)
	size := uint32(len(ids) * 8)
	n, _, errno := unix.Syscall(unix.SYS_LSM_LIST_MODULES, uintptr(unsafe.Pointer(&ids[0])),
		uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	var names []string
	for _, id := range ids[:min(int(n), len(ids))] {
		if name, ok := credModules[id]; ok {
			names = append(names, name)
		}
	}
	return names, nil
}
