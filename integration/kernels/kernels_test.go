package kernels

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInitramfs(t *testing.T) {
	host := filepath.Join(t.TempDir(), "prog")
	if err := os.WriteFile(host, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tree := NewTree()
	tree.AddFile("/bin/prog", host)
	tree.AddData("src/a/b/data", []byte("12345"))
	tree.AddLink("/bin/sh", "prog")
	name := filepath.Join(t.TempDir(), "initramfs")
	if err := tree.write(name, Plan{Commands: []Command{{Name: "x", Args: []string{"/bin/prog"}}}}); err != nil {
		t.Fatal(err)
	}
	got := unpackNewc(t, name)
	for path, want := range map[string]string{
		"bin/prog": "#!/bin/sh\n", "src/a/b/data": "12345", "bin/sh": "prog", "src/a/b": "", "proc": "",
		"plan.json": `{"commands":[{"name":"x","args":["/bin/prog"],"env":null,"dir":"","timeout":0}]}`,
	} {
		if have, ok := got[path]; !ok || have != want {
			t.Errorf("%s: got %q (there: %v), want %q", path, have, ok, want)
		}
	}
}

// unpackNewc reads an archive by the letter of the format's description, which shares no code with the writer.
func unpackNewc(t *testing.T, name string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for pos := 0; ; {
		if string(b[pos:pos+6]) != "070701" {
			t.Fatalf("no header at %d", pos)
		}
		field := func(i int) int {
			n := 0
			for _, c := range string(b[pos+6+8*i : pos+14+8*i]) {
				n = n<<4 | strings.IndexRune("0123456789abcdef", c)
			}
			return n
		}
		size, nameSize := field(6), field(11)
		path := string(b[pos+110 : pos+110+nameSize-1])
		if path == "TRAILER!!!" {
			return out
		}
		data := (pos + 110 + nameSize + 3) &^ 3
		out[path] = string(b[data : data+size])
		pos = (data + size + 3) &^ 3
	}
}

func TestProtocol(t *testing.T) {
	in := "firmware noise\n\x1e{\"kind\":\"boot\",\"release\":\"6.1\",\"millis\":2000}\n" +
		"\n\x1e{\"kind\":\"start\",\"name\":\"one\"}\nhello\nno newline at the end" +
		"\n\x1e{\"kind\":\"end\",\"name\":\"one\",\"exit\":0,\"millis\":5}\n" +
		"\n\x1e{\"kind\":\"start\",\"name\":\"two\"}\n" +
		"\n\x1e{\"kind\":\"end\",\"name\":\"two\",\"exit\":2}\n\n\x1e{\"kind\":\"done\"}\n"
	var rep Report
	var echo bytes.Buffer
	if err := rep.read(strings.NewReader(in), &echo); err != nil {
		t.Fatal(err)
	}
	if !rep.Done || rep.Release != "6.1" || len(rep.Outcomes) != 2 {
		t.Fatalf("got %+v", rep)
	}
	if o := rep.Outcomes[0]; !o.OK() || string(o.Output) != "hello\nno newline at the end" {
		t.Errorf("one: %+v %q", o.Event, o.Output)
	}
	if o := rep.Outcomes[1]; o.OK() || o.Verdict() != "failed with status 2 after 0s" {
		t.Errorf("two: %+v", o.Event)
	}
	if !strings.Contains(echo.String(), "hello") || strings.Contains(echo.String(), "noise") {
		t.Errorf("echo: %q", echo.String())
	}
}

func TestProtocolOfAGuestThatDies(t *testing.T) {
	var rep Report
	in := "\x1e{\"kind\":\"boot\"}\n\n\x1e{\"kind\":\"start\",\"name\":\"one\"}\nhel"
	if err := rep.read(strings.NewReader(in), nil); err != nil {
		t.Fatal(err)
	}
	rep.Console = []byte("Kernel panic - not syncing")
	err := rep.verdict(t.Context(), nil, "")
	if rep.Done || err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Errorf("got %v", err)
	}
}

func TestVerdictNamesTheReason(t *testing.T) {
	for _, c := range []struct {
		event Event
		want  string
	}{
		{Event{Exit: -1, TimedOut: true, Millis: 1500}, "out of time after 1.5s"},
		{Event{Exit: -1, Error: "signal: killed"}, "failed: signal: killed"},
		{Event{Millis: 20}, "ok, 20ms"},
	} {
		if got := (Outcome{Event: c.event}).Verdict(); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.event, got, c.want)
		}
	}
}
