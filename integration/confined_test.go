package integration

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// A Landlock sandbox is refused by name: nothing can be read of its rules, and a restore without them would let the
// program out.
func TestLandlockIsRefused(t *testing.T) {
	tg := prepare(t, program{name: "confined/landlock", argv: []string{"confined", "landlock"}, status: 3})
	tg.launch(nil)
	tg.waitReady()
	if tg.ended() {
		t.Skip("this kernel has no Landlock")
	}
	for _, args := range [][]string{
		{"check", strconv.Itoa(tg.pid)},
		{"snap", strconv.Itoa(tg.pid), "--dir", "image", "--kill"},
	} {
		if out, errs, status := tg.ckpt(args...); status != 4 || !strings.Contains(out+errs, "Landlock") {
			t.Errorf("%v: status %d: %s%s", args, status, out, errs)
		}
	}
	if _, err := os.Stat(tg.path("image")); err == nil {
		t.Error("a refused snapshot left its directory")
	}
	tg.goOn()
	if r := tg.finish(); r.status != 0 {
		t.Errorf("it was harmed: %s", r)
	}
}

// Keyrings are not saved, and that is said by check and by snap.
func TestKeyringsAreTold(t *testing.T) {
	p := program{name: "confined/keys", argv: []string{"confined", "keys"}, status: 3}
	tg := prepare(t, p)
	tg.launch(nil)
	tg.waitReady()
	if tg.ended() {
		t.Skip("this kernel has no keyrings")
	}
	for _, args := range [][]string{{"check", strconv.Itoa(tg.pid)}, {"snap", strconv.Itoa(tg.pid), "--dir", "image"}} {
		out, errs, status := tg.ckpt(args...)
		if status != 0 || !strings.Contains(out+errs, "session keyring") ||
			!strings.Contains(out+errs, "keyring of the process") {
			t.Errorf("%v: status %d: %s%s", args, status, out, errs)
		}
	}
	tg.interrupt()
	tg.goOn()
	if r := tg.finish(); r.status != 0 {
		t.Errorf("after the restore: %s", r)
	}
}
