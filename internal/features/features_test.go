package features

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A feature that a kernel newer than its first release does not have is a broken probe, unless the kernel was built
// without it.
func TestOutcomesFitTheKernel(t *testing.T) {
	optional := map[string]bool{"soft_dirty": true} // CONFIG_MEM_SOFT_DIRTY
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	for _, r := range Probe() {
		t.Logf("%-24s %-8s %s", r.Name, r.Outcome, r.Detail)
		newer := !less(release, r.Since)
		switch {
		case r.Outcome == Unknown && os.Getuid() == 0:
			t.Errorf("%s: could not be told as root: %s", r.Name, r.Detail)
		case r.Outcome == No && newer && !optional[r.Name]:
			t.Errorf("%s is not in %s, though kernels have it since %s: %s", r.Name, release, r.Since, r.Detail)
		case r.Outcome == Yes && !newer:
			t.Errorf("%s is in %s, though it is said to come with %s", r.Name, release, r.Since)
		}
		if (r.Outcome == Yes) != (r.Detail == "") {
			t.Errorf("%s: outcome %s with detail %q", r.Name, r.Outcome, r.Detail)
		}
	}
}

// less compares kernel releases by their first two numbers.
func less(a, b string) bool {
	number := func(release string, i int) int {
		parts := strings.FieldsFunc(release, func(r rune) bool { return r < '0' || r > '9' })
		n, _ := strconv.Atoi(parts[i])
		return n
	}
	if number(a, 0) != number(b, 0) {
		return number(a, 0) < number(b, 0)
	}
	return number(a, 1) < number(b, 1)
}

// Probes leave nothing behind: no child, no descriptor.
func TestProbesLeaveNothing(t *testing.T) {
	Probe() // whatever the runtime and the libraries open once
	before := descriptors(t)
	Probe()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	var ws unix.WaitStatus
	if pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
