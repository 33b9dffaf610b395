package regions

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const (
	user  = "#include \"bpfckpt.h\"\nint helper(void);\nint main(void) { bpfckpt_hold(); int r = helper(); bpfckpt_release(); return r; }\n"
	other = "#include \"bpfckpt.h\"\nint helper(void) { bpfckpt_hold(); bpfckpt_release(); return 0; }\n"
)

// compiler returns a C compiler; the guests of the kernel matrix have none.
func compiler(t testing.TB) string {
	t.Helper()
	if os.Getenv("BPFCKPT_GUEST") != "" {
		t.Skip("no compiler in a guest; the host runs this")
	}
	return "gcc"
}

func compile(t testing.TB, out string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.c"), filepath.Join(dir, "b.c")
	for name, text := range map[string]string{a: user, b: other} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, out)
	args := append([]string{"-Wall", "-Wextra", "-Werror", "-I../../include", "-o", path, a, b}, flags...)
	if text, err := exec.Command(compiler(t), args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, text)
	}
	return path
}

// TestFind builds a program of two files in the ways that programs are built, and holds each mark against the
// instruction there.
func TestFind(t *testing.T) {
	for name, flags := range map[string][]string{
		"plain":        {"-O0"},
		"optimized":    {"-O3"},
		"pie":          {"-O2", "-fPIE", "-pie"},
		"not pie":      {"-O2", "-no-pie"},
		"static":       {"-O2", "-static"},
		"static pie":   {"-O2", "-static-pie"},
		"stripped":     {"-O2", "-s"},
		"collected":    {"-O2", "-ffunction-sections", "-Wl,--gc-sections"},
		"link time":    {"-O2", "-flto"},
		"library":      {"-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-s"},
		"branch marks": {"-O2", "-fcf-protection=full"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(compile(t, "prog", flags...))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			m, err := Find(f)
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Hold) == 0 || len(m.Hold) != len(m.Release) {
				t.Fatalf("marks %x", m)
			}
			for _, at := range append(m.Hold, m.Release...) {
				code := make([]byte, 1)
				if _, err := f.ReadAt(code, int64(at)); err != nil || code[0] != 0x90 {
					t.Errorf("at %#x there is %#x, not a nop (%v)", at, code, err)
				}
			}
		})
	}
}

// TestHeaderIsStrict compiles the header as the oldest C and C++ we claim, with everything that warns.
func TestHeaderIsStrict(t *testing.T) {
	for _, flags := range [][]string{
		{"-x", "c", "-std=c89"},
		{"-x", "c", "-std=c17", "-masm=intel"},
		{"-x", "c++", "-std=c++98"},
		{"-x", "c++", "-std=c++20"},
	} {
		src := filepath.Join(t.TempDir(), "x.c")
		if err := os.WriteFile(src, []byte("#include \"bpfckpt.h\"\nint f(void);\nint f(void) { bpfckpt_hold(); bpfckpt_release(); return 0; }\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args := append(flags, "-pedantic", "-Wall", "-Wextra", "-Werror", "-I../../include", "-c", "-o", src+".o", src)
		if text, err := exec.Command(compiler(t), args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, text)
		}
	}
}

// TestFindNothing looks at files without marks.
func TestFindNothing(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("#!/bin/sh\n"), "no notes of ours": self,
		"cut": self[:100],
	} {
		if m, err := Find(bytes.NewReader(data)); err != nil || m.Any() {
			t.Errorf("%s: %v %v", name, m, err)
		}
	}
}

// TestFindDamaged changes the notes of a program: what cannot be understood is an error, not a file without regions.
func TestFindDamaged(t *testing.T) {
	data, err := os.ReadFile(compile(t, "prog"))
	if err != nil {
		t.Fatal(err)
	}
	name := bytes.Index(data, []byte(owner))
	if name < 0 {
		t.Fatal("no note")
	}
	for what, change := range map[string]func(note []byte){
		"unknown type":  func(n []byte) { binary.LittleEndian.PutUint32(n[8:], 9) },
		"short":         func(n []byte) { binary.LittleEndian.PutUint32(n[4:], 4) },
		"leads nowhere": func(n []byte) { binary.LittleEndian.PutUint64(n[24:], 1<<40) },
	} {
		bad := bytes.Clone(data)
		change(bad[name-12:])
		if m, err := Find(bytes.NewReader(bad)); err == nil {
			t.Errorf("%s: %v", what, m)
		}
	}
}

func FuzzFind(f *testing.F) {
	if os.Getenv("BPFCKPT_GUEST") == "" {
		data, err := os.ReadFile(compile(f, "prog", "-s"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Find(bytes.NewReader(data))
		if err != nil && m.Any() {
			t.Error("marks beside an error")
		}
	})
}
