package main

import "testing"

func TestVisible(t *testing.T) {
	for text, want := range map[string]string{
		"plain größe 名": "plain größe 名", "a\x1b[2Jb": `a\x1b[2Jb`, "one\ntwo\tthree": `one\ntwo\tthree`, "bad \xff\x80": `bad \xff\x80`,
		"c1 \u009b31m": `c1 \u009b31m`, "bidi \u202e": `bidi \u202e`, "": "", "del \x7f": `del \x7f`, "\u2028": `\u2028`,
	} {
		if got := visible(text); got != want {
			t.Errorf("%q is shown as %q and should be %q", text, got, want)
		}
	}
}
