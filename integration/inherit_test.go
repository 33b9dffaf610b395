package integration

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// What the restore command has inherited is not handed on: ignored signals, ambient capabilities, timer slack and more
// are the image's.
func TestOddRestorer(t *testing.T) {
	for _, name := range []string{"signals/handlers", "trees/killed", "trees/groups", "trees/threads-and-children"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := caseNamed(t, name)
			want := control(t, p)
			tg := start(t, p)
			before := viewOf(tg.pid)
			tg.snap()
			tg.kill()
			tg.run(exec.Command(filepath.Join(built.dir, "odd"), built.cmd, "restore", "image"), "restore.out",
				"restore.err")
			tg.waitRestored()
			if name != "trees/killed" { // little is kept of the dead
				compareViews(t, "after the restore", viewOf(tg.pid), before, p.loses)
			}
			tg.goOn()
			same(t, name, tg.finish(), want)
		})
	}
}
