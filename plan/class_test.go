package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/policy"
)

// dependent is a state with a description of each class that an image may have.
func dependent() *model.State {
	st := ordinary()
	st.Files = []model.File{
		{ID: 1, Kind: "tty", Path: "/dev/pts/1", Std: 1},
		{ID: 2, Kind: "tty", Path: "/dev/pts/2"},
		{ID: 3, Kind: "regular", Mode: typeRegular, Path: "/log", Flags: 1 | appendMode},
		{ID: 4, Kind: "regular", Mode: typeRegular, Path: "/out", Flags: 1},
		{ID: 5, Kind: "regular", Mode: typeRegular, Path: "/in"},
		{ID: 6, Kind: "regular", Mode: typeRegular, Path: "/gone", Flags: 1, Unlinked: 1},
		{ID: 7, Kind: "regular", Mode: typeRegular, Path: "/dev/shm/x", Flags: 2, Dev: 1, Ino: 2},
		{ID: 8, Kind: "regular", Mode: typeRegular, Path: "/script.log", Flags: 1, Std: 2, Others: true},
	}
	st.Unlinked = []model.UnlinkedFile{{Path: "/gone"}}
	st.Named = []model.UnlinkedFile{{Path: "/dev/shm/x", Dev: 1, Ino: 2}}
	for i, num := range []int{0, 3, 4, 5, 6, 7, 8, 1} {
		st.Processes[0].FDs = append(st.Processes[0].FDs[:i], model.FD{Num: num, File: i + 1})
	}
	return st
}

func TestOutsideOf(t *testing.T) {
	want := []Outside{
		{policy.Std, 1, "fd 0 of pid 10", "/dev/pts/1"},
		{policy.Terminal, 2, "fd 3 of pid 10", "/dev/pts/2"},
		{policy.Appended, 3, "fd 4 of pid 10", "/log"},
		{policy.Files, 4, "fd 5 of pid 10", "/out"},
		{policy.Read, 5, "fd 6 of pid 10", "/in"},
		{policy.Std, 8, "fd 1 of pid 10", "/script.log"},
	}
	if got := OutsideOf(dependent()); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

// What the policy refuses, every side refuses in its own codes; what it wants to become of things, the steps say.
func TestPolicyIsPlanned(t *testing.T) {
	refuse := policy.Policy{policy.Std: policy.Refuse}
	for side, code := range map[Side]fault.Code{
		Check: fault.NotRestorable, Snap: fault.NotRestorable, Restore: fault.Policy,
	} {
		p := Build(dependent(), capableHost(), Options{Side: side, Policy: refuse})
		if len(p.Refusals) != 2 || p.Refusals[0].Code != code || p.Refusals[0].Object != "fd 0 of pid 10" || len(p.Steps) > 0 {
			t.Errorf("side %d: %v", side, p.Refusals)
		}
		if side == Check {
			continue
		}
		for _, c := range []struct {
			pol  policy.Policy
			says []string
		}{
			{nil, []string{
				"/dev/pts/1 becomes standard stream 0", "/dev/pts/2 becomes the terminal", "/script.log becomes standard stream 1",
			}},
			{policy.Policy{policy.Std: policy.Null}, []string{
				"/dev/pts/1 becomes /dev/null", "/dev/pts/2 becomes the terminal", "open /script.log",
			}},
			{policy.Policy{policy.Terminal: policy.Null}, []string{
				"/dev/pts/1 becomes standard stream 0", "/dev/pts/2 becomes /dev/null",
			}},
		} {
			p := Build(dependent(), capableHost(), Options{Side: side, Policy: c.pol})
			var text strings.Builder
			for _, s := range p.Steps {
				text.WriteString(s.Text + "\n")
			}
			for _, says := range c.says {
				if !strings.Contains(text.String(), says) {
					t.Errorf("side %d, %v: no step says %q:\n%s%v", side, c.pol, says, text.String(), p.Refusals)
				}
			}
		}
	}
}
