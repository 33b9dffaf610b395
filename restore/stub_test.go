package restore

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bpfckpt/bpfckpt/internal/fault"
	"github.com/bpfckpt/bpfckpt/model"
	"github.com/bpfckpt/bpfckpt/plan"
)

// emptyTree is a tree of no process but the stub, in a pid namespace of its own or not.
func emptyTree(t *testing.T, pidNS bool) *tree {
	t.Helper()
	j := newJournal(t)
	t.Cleanup(j.rollback)
	return &tree{
		j: j, view: ownView(t), st: &model.State{}, births: &plan.Births{}, handover: &handover{j: j},
		stub: &stubProcess{j: j, pidNS: pidNS, detach: true},
	}
}

// ourClocks are those of a tree that was saved on this boot.
func ourClocks(t *testing.T) *clocks {
	t.Helper()
	boot, err := ownView(t).Boot()
	if err != nil {
		t.Fatal(err)
	}
	return &clocks{view: ownView(t), kernel: &model.Kernel{BootID: boot}}
}

// helperOf is a process that the stub has made, with a boot area and no descriptors but the socket.
func helperOf(t *testing.T, tr *tree) *process {
	t.Helper()
	if err := tr.start(ourClocks(t)); err != nil {
		t.Fatal(err)
	}
	p, err := tr.createAny(tr.stub.process, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &spaces{boot: map[int]uint64{p.rec.Pid: 0x10000000}}
	if err := s.makeBoot(p); err != nil {
		t.Fatal(err)
	}
	if err := p.clearDescriptors(); err != nil {
		t.Fatal(err)
	}
	return p
}

// Whatever of its start fails, a stub leaves no process and no descriptor.
func TestStubThatFailsLeavesNothing(t *testing.T) {
	for _, pidNS := range []bool{false, true} {
		t.Run(fmt.Sprintf("namespace %t", pidNS), func(t *testing.T) {
			before := descriptorsOf(t, os.Getpid())
			for fail := 1; ; fail++ {
				tr := emptyTree(t, pidNS)
				tr.j.fail = fail
				err := tr.start(ourClocks(t))
				tr.j.rollback()
				if tr.stub.cmd != nil && unix.Kill(tr.stub.cmd.Process.Pid, 0) == nil {
					t.Errorf("step %d: the stub is left", fail)
				}
				if left := leftOver(t, before); len(left) > 0 {
					t.Fatalf("step %d: descriptors %q, before %q", fail, left, before)
				}
				if err == nil {
					if fail == 1 {
						t.Error("no step was counted")
					}
					return
				}
				var f *fault.Error
				if !errors.As(err, &f) || f.Code != fault.RestoreStep && f.Code != fault.PidNS {
					t.Errorf("step %d: %v", fail, err)
				}
			}
		})
	}
}

// leftOver lists the descriptors of ours that were not there before. It waits a while for none: the runtime closes some
// a little later, those of before too.
func leftOver(t *testing.T, before []string) (left []string) {
	t.Helper()
	for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
		left = slices.DeleteFunc(descriptorsOf(t, os.Getpid()), func(name string) bool {
			return slices.Contains(before, name)
		})
		if len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

func descriptorsOf(t *testing.T, pid int) []string {
	t.Helper()
	dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range dir {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, d.Name()))
		if err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") { // of the Go runtime
			names = append(names, d.Name())
		}
	}
	return names
}

// The stub ignores no signal that we ignore, and has a namespace's first id in one.
func TestStubHasInheritedNothing(t *testing.T) {
	tr := emptyTree(t, true)
	if err := tr.start(ourClocks(t)); err != nil {
		t.Fatal(err)
	}
	if id, err := tr.stub.call("ask for its id", unix.SYS_GETPID); err != nil || id != 1 {
		t.Errorf("its id is %d, %v", id, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tr.stub.pid))
	if err != nil || !strings.Contains(string(status), "SigIgn:\t0000000000000000") {
		t.Errorf("it ignores signals: %s, %v", status, err)
	}
	if id, err := tr.stub.call("ask for the group", unix.SYS_GETPGID, 1<<30); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a call that fails gave %d, %v", id, err)
	}
}

// A helper of any id does not take one that the image needs, and none that it had for a moment is left.
func TestHelperKeepsOffWantedIDs(t *testing.T) {
	tr := emptyTree(t, true)
	tr.st.Processes = []model.Process{{Pid: 2}, {Pid: 3}} // the next ids of the namespace
	if err := tr.start(ourClocks(t)); err != nil {
		t.Fatal(err)
	}
	p, err := tr.createAny(tr.stub.process, 0)
	if err != nil {
		t.Fatal(err)
	}
	if p.rec.Pid != 4 || len(tr.helpers) != 1 || tr.helpers[0] != p {
		t.Errorf("it has id %d, and there are %d helpers", p.rec.Pid, len(tr.helpers))
	}
}

// A zombie has the status and the name of the image, and stays until the end of all.
func TestZombies(t *testing.T) {
	for _, c := range []struct {
		code int
		args []string
	}{{3 << 8, []string{"with (paren"}}, {int(unix.SIGTERM), nil}, {int(unix.SIGKILL), []string{"killed"}}} {
		tr := emptyTree(t, true)
		if err := tr.start(ourClocks(t)); err != nil {
			t.Fatal(err)
		}
		p, err := tr.createAny(tr.stub.process, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.rec.ExitCode, p.rec.Args = c.code, c.args
		if err := p.die(); err != nil {
			t.Fatal(err)
		}
		if o, ok := lookup(p.pid); !ok || !o.dead() || len(c.args) > 0 && o.comm != c.args[0] {
			t.Errorf("code %#x: %+v, %t", c.code, o, ok)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
		if f := strings.Fields(string(stat)); err != nil || f[len(f)-1] != fmt.Sprint(c.code) {
			t.Errorf("code %#x: %s, %v", c.code, stat, err)
		}
		tr.j.rollback()
		if _, ok := lookup(p.pid); ok {
			t.Errorf("code %#x: it is left", c.code)
		}
	}
}

// More descriptors than one message holds arrive in their order, and nothing else is there.
func TestHandoverOfManyDescriptors(t *testing.T) {
	tr := emptyTree(t, false)
	p := helperOf(t, tr)
	if have := descriptorsOf(t, p.pid); !slices.Equal(have, []string{fmt.Sprint(p.socket)}) {
		t.Fatalf("it begins with %q", have)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fds := slices.Repeat([]int{int(r.Fd())}, 2*plan.MaxFDs+1)
	fds[plan.MaxFDs] = int(w.Fd()) // the first of the second message
	if err := tr.handover.send(p, fds); err != nil {
		t.Fatal(err)
	}
	if have := descriptorsOf(t, p.pid); len(have) != len(fds)+1 {
		t.Errorf("%d descriptors have arrived, want %d and the socket", len(have), len(fds))
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", p.pid, p.arrival(plan.MaxFDs)))
	if err != nil || !strings.Contains(string(info), "flags:\t01") {
		t.Errorf("the end for writing is another: %s, %v", info, err)
	}
	if err := tr.handover.send(p, []int{1 << 20}); !errors.Is(err, unix.EBADF) {
		t.Errorf("a descriptor that we do not have: %v", err)
	}
}

// What cannot be mapped for the children, too, each of them gets for itself.
func TestBequestInTheWayOfTheStub(t *testing.T) {
	p := helperOf(t, emptyTree(t, false))
	free := model.Range{Start: 0x20000000, End: 0x20000000 + 4*pageSize}
	taken := model.Range{Start: p.boot, End: p.boot + pageSize}
	b := &bequests{j: p.j, unshared: map[int]bool{}, heritage: &plan.Heritage{
		Bequests: []plan.Bequest{{Range: free}, {Range: taken}, {Range: free, Kin: 5}},
		Kept:     map[int][]plan.Keep{0: {{VMA: 0, Bequest: 0}, {VMA: 1, Bequest: 1}}},
	}}
	if err := b.fill(p); err != nil {
		t.Fatal(err)
	}
	if len(b.unshared) != 1 || !b.unshared[1] {
		t.Errorf("those that could not be made are %v", b.unshared)
	}
	if kept := b.kept(p); len(kept) != 1 || !kept[0] {
		t.Errorf("it is born with the mappings %v", kept)
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid))
	if err != nil || !strings.Contains(string(maps), "20000000-20004000 rw-p") {
		t.Errorf("%s, %v", maps, err)
	}
}
