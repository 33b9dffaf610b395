package policy

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
)

// Every class is there once, with a default; what is to come is not there yet; a flag chooses once for each class.
func TestTable(t *testing.T) {
	seen := map[Class]bool{}
	for _, r := range Table() {
		if seen[r.Class] || r.What == "" || len(r.Can) == 0 {
			t.Errorf("class %s: %+v", r.Class, r)
		}
		seen[r.Class] = true
		for i, o := range r.Can {
			if slices.Contains(r.Later, o.Action) || slices.Contains(r.Actions()[:i], o.Action) || o.Does == "" {
				t.Errorf("class %s: action %s", r.Class, o.Action)
			}
			if o.Flag == "" {
				continue
			}
			if _, err := Make(Shorthand(o.Flag)...); err != nil {
				t.Errorf("%s contradicts itself: %v", o.Flag, err)
			}
		}
		if got := Policy(nil).Of(r.Class); got != r.Can[0].Action {
			t.Errorf("class %s becomes %s by default", r.Class, got)
		}
	}
}

func TestMake(t *testing.T) {
	p, err := Make(append(Shorthand("--detach"), Choice{Std, Null, "--policy std=null"}, Choice{Files, Verify, "x"})...)
	if err != nil || p.Of(Std) != Null || p.Of(Terminal) != Null || p.Of(Files) != Verify || p.Of(Appended) != Rollback {
		t.Errorf("%v, %v", p, err)
	}
	for _, c := range []struct {
		choices []Choice
		says    string
	}{
		{[]Choice{{"stdio", Null, "here"}}, "here: there is no class \"stdio\"; the classes are std, terminal"},
		{[]Choice{{Socket, Reconnect, "here"}}, "here: this version does not know yet how to reconnect what is of class socket"},
		{[]Choice{{Std, Rollback, "here"}}, "what can: reattach, null, refuse"},
		{[]Choice{{Std, "vanish", "here"}}, "here: \"vanish\" is nothing"},
		{
			append(Shorthand("--detach"), Choice{Std, Reattach, "there"}),
			"there: it says reattach for class std, and --detach says null",
		},
	} {
		_, err := Make(c.choices...)
		bad(t, err, c.says)
	}
	_, err = Policy{Std: Reattach}.With("--detach")
	bad(t, err, "--detach: it says null for class std, and the policy says reattach")
	bad(t, Policy{Pipe: Null}.Valid(), "pipe=null: this version does not know yet")
}

func bad(t *testing.T, err error, says string) {
	t.Helper()
	if !errors.Is(err, &fault.Error{Code: fault.BadOption}) || !strings.Contains(err.Error(), says) {
		t.Errorf("%v; it should say %q", err, says)
	}
}

func TestParseFile(t *testing.T) {
	list, err := ParseFile("# for the night\n\nstd=null # nobody looks\n  files = verify\n", "night")
	want := []Choice{{Std, Null, "night:3"}, {Files, Verify, "night:4"}}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%v, %v", list, err)
	}
	for text, says := range map[string]string{
		"std=null\nstd": "night:2: \"std\" is not CLASS=ACTION", "\nread=embed": "night:2: this version",
	} {
		_, err := ParseFile(text, "night")
		bad(t, err, says)
	}
	for text, want := range map[string]bool{"std=null": true, "night": false, "./a=b": false, "a/b=c": false} {
		if IsChoice(text) != want {
			t.Errorf("%s is taken for a choice: %v", text, !want)
		}
	}
}
