package integration

import "testing"

// What is excluded comes back as zeros, everything else as it was; and an image that excludes nothing holds all of it
// again, also when it continues one that did not.
func TestExclude(t *testing.T) {
	p := program{name: "exclude", argv: []string{"exclude"}}
	exclude := []string{"--exclude", "dontdump", "--exclude", "*/cache.bin"}
	const all = "READY\ndata is there\ncache is there\nscratch is there\n"
	if have := control(t, p).out; have != all {
		t.Fatalf("without a checkpoint: %q", have)
	}
	for name, c := range map[string]struct {
		snaps [][]string
		want  string
	}{
		"left out": {[][]string{exclude}, "READY\ndata is there\ncache is zero\nscratch is zero\n"},
		"pre-copied": {
			[][]string{append([]string{"--incremental"}, exclude...)},
			"READY\ndata is there\ncache is zero\nscratch is zero\n",
		},
		"then taken": {[][]string{append([]string{"--incremental"}, exclude...), {"--incremental"}}, all},
		"taken, then not": {
			[][]string{{"--incremental"}, append([]string{"--incremental"}, exclude...)},
			"READY\ndata is there\ncache is zero\nscratch is zero\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tg := start(t, p)
			t.Cleanup(tg.endWatch)
			for _, flags := range c.snaps {
				tg.snap(flags...)
			}
			tg.interrupt()
			tg.goOn()
			if r := tg.finish(); r.status != 0 || r.out != c.want {
				t.Errorf("%s", r)
			}
		})
	}
}
