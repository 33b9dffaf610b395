package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/bpfckpt/bpfckpt/"

// layer places a package on the ladder of DESIGN 3. A package imports only packages of lower layers, or of its own
// directory tree; two packages of one layer are unaware of each other, except inside internal/, where Go's own ban on
// cycles is enough.
func layer(pkg string) int {
	top, _, _ := strings.Cut(pkg, "/")
	switch top {
	case "cmd":
		return 9
	case "job":
		return 8
	case "agent":
		return 7
	case "snapshot", "restore":
		return 6
	case "tracer", "fdtable":
		return 5
	case "bpf":
		return 4
	case "internal":
		return internalLayer(pkg)
	case "plan", "image":
		return 2
	case "model", "policy":
		return 1
	}
	return 10 // integration, examples, scripts: they may import everything, and nobody imports them
}

// internalLayer is 3 for packages that may import image, plan and model (they describe or read kernel state), 0 for
// those below them.
func internalLayer(pkg string) int {
	if slices.Contains(belowModel, strings.TrimPrefix(pkg, "internal/")) {
		return 0
	}
	return 3
}

// belowModel are the internal packages that packages image, plan and model may import.
var belowModel = []string{"fault", "stub", "arch", "beneath"}

func TestImportsRunDownwards(t *testing.T) {
	for file, tree := range goFiles(t) {
		from := filepath.Dir(file)
		if from == "." {
			continue
		}
		for _, imp := range tree.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			to, ours := strings.CutPrefix(path, module)
			if !ours || allowed(from, to, strings.HasSuffix(file, "_test.go")) {
				continue
			}
			t.Errorf("%s: %s must not import %s", file, from, to)
		}
	}
}

func allowed(from, to string, test bool) bool {
	fromTop, _, _ := strings.Cut(from, "/")
	toTop, _, _ := strings.Cut(to, "/")
	switch {
	case fromTop == toTop && (fromTop != "internal" || layer(from) >= layer(to)):
		return true
	case strings.HasPrefix(to, "internal/archtest"), strings.HasPrefix(to, "integration"):
		return false
	case test && toTop != "cmd":
		// A test may use the real thing: the test that holds two sources against each other needs both.
		return true
	}
	return layer(to) < layer(from)
}

// What scripts/toolchain fetches where Go is too old is the Go that go.mod names, with a known content.
func TestToolchainIsKnown(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile("../../scripts/toolchain.sum")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(mod)
	if named := regexp.MustCompile(`(?m)^toolchain go(\S+)$`).FindSubmatch(mod); named != nil {
		version = named
	}
	for _, line := range []string{"", "/go.mod"} {
		want := fmt.Sprintf("golang.org/toolchain v0.0.1-go%s.linux-amd64%s h1:", version[1], line)
		if !strings.Contains(string(sums), want) {
			t.Errorf("scripts/toolchain.sum has no line %s…; in an empty module: go mod download -json golang.org/toolchain@v0.0.1-go%s.linux-amd64", want, version[1])
		}
	}
}

// image is readable without Linux, root or BPF: the standard library, zstd, the model, the faults and a way to open
// directories are all it needs.
// model needs the standard library alone.
func TestImageStandsAlone(t *testing.T) {
	needs := map[string][]string{
		"image": {
			"github.com/klauspost/compress/", "github.com/cespare/xxhash/", "golang.org/x/sync/",
			module + "internal/fault", module + "internal/beneath", module + "model",
		},
		"model": nil,
	}
	for file, tree := range goFiles(t) {
		ok, alone := needs[filepath.Dir(file)]
		if !alone || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, imp := range tree.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			first, _, _ := strings.Cut(path, "/")
			standard := !strings.Contains(first, ".")
			if !standard && !slices.ContainsFunc(ok, func(p string) bool { return strings.HasPrefix(path, p) }) {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

// A page of docs/adr says what has become of the decision, and when it was made.
func TestDecisionsAreDated(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(repoRoot(t), "docs", "adr", "0*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	head := regexp.MustCompile(`\A# (\d{4}): .+\n\n- Status: .+\n- Date: \d{4}-\d\d-\d\d\n\n`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if m := head.FindSubmatch(text); m == nil || string(m[1]) != filepath.Base(page)[:4] {
			t.Errorf("%s does not begin with its number and title, status and date", filepath.Base(page))
		}
	}
}

// The plan is a pure function, model and policy plain data: they call nothing of the system, not even for the time.
func TestPlanIsPure(t *testing.T) {
	for file, tree := range goFiles(t) {
		if !slices.Contains([]string{"plan", "model", "policy"}, filepath.Dir(file)) || strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, imp := range tree.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if slices.Contains([]string{"os", "io", "syscall", "net", "runtime", "golang.org/x/sys/unix"}, path) ||
				strings.HasPrefix(path, "os/") {
				t.Errorf("%s imports %s", file, path)
			}
		}
	}
}

func TestUnsafeOnlyInUnsafeFiles(t *testing.T) {
	for file, tree := range goFiles(t) {
		uses := slices.ContainsFunc(tree.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"unsafe"` })
		base := strings.TrimSuffix(strings.TrimSuffix(file, ".go"), "_test")
		base = strings.TrimSuffix(strings.TrimSuffix(base, "_amd64"), "_arm64")
		if uses && !strings.HasSuffix(base, "_unsafe") && !generated(tree) {
			t.Errorf("%s imports unsafe: only *_unsafe.go files may", file)
		}
	}
}

// machinePath finds absolute paths of somebody's work tree: what is committed must not depend on where it was written.
var machinePath = regexp.MustCompile(`/(?:work/(?:main|shared|\.library)|tmp/w/|home/[a-z]+/|Users/|root/(?:go|\.pyenv|\.cache))`)

func TestNoMachinePaths(t *testing.T) {
	root := repoRoot(t)
	for _, file := range tracked(t) {
		if strings.HasPrefix(file, "internal/archtest/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			continue // deleted in the work tree, or a link
		}
		if at := machinePath.Find(b); at != nil {
			t.Errorf("%s names a path of one machine: %s", file, at)
		}
	}
}

// maxLines is the length from which a file is worth a second look.
const maxLines = 500

func TestFileLength(t *testing.T) {
	root := repoRoot(t)
	for file, tree := range goFiles(t) {
		b, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || generated(tree) {
			continue
		}
		switch n := bytes.Count(b, []byte("\n")); {
		case n > 2*maxLines:
			t.Errorf("%s has %d lines: split it", file, n)
		case n > maxLines:
			t.Logf("note: %s has %d lines", file, n)
		}
	}
}

func TestNoUnfinishedWork(t *testing.T) {
	mark := regexp.MustCompile(`\b(` + "TO" + "DO|FIX" + "ME|XX" + `X)\b`)
	root := repoRoot(t)
	for file := range goFiles(t) {
		b, err := os.ReadFile(filepath.Join(root, file))
		if err == nil && mark.Match(b) {
			t.Errorf("%s holds the mark %s", file, mark.Find(b))
		}
	}
}

func generated(tree *ast.File) bool { return ast.IsGenerated(tree) }

// goFiles parses every Go file of the repository, keyed by its path from the root.
func goFiles(t *testing.T) map[string]*ast.File {
	t.Helper()
	root := repoRoot(t)
	files := map[string]*ast.File{}
	for _, file := range tracked(t) {
		if !strings.HasSuffix(file, ".go") || strings.Contains(file, "testdata/") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil,
			parser.ParseComments|parser.SkipObjectResolution)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		files[file] = tree
	}
	return files
}

// tracked lists the files of the repository; without git (a source archive) it is every file below the root.
func tracked(t *testing.T) []string {
	t.Helper()
	root := repoRoot(t)
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	if out, err := cmd.Output(); err == nil {
		return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
	}
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(root, path)
			files = append(files, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func repoRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// keepsPointers are the functions whose uintptr arguments may be pointers: those of package syscall, of which the
// compiler knows, and those with the directive uintptrescapes. uint64 is for addresses that others put into structures;
// whoever takes one pins what it points to, or has mapped it.
var keepsPointers = []string{"Syscall", "Syscall6", "RawSyscall", "RawSyscall6", "request", "requestN", "uint64"}

// A pointer that is converted to uintptr for any other function is a bug that shows once in a thousand runs: the stack
// it points to may have moved when the kernel uses it.
func TestPointersReachTheKernel(t *testing.T) {
	for file, tree := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		allowed := map[ast.Node]bool{}
		ast.Inspect(tree, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if slices.Contains(keepsPointers, calledName(call)) {
				for _, arg := range call.Args {
					allowed[arg] = true
				}
			}
			if isPointerToUintptr(call) && !allowed[call] {
				t.Errorf("%s: a pointer becomes a uintptr outside of the arguments of %s", file,
					strings.Join(keepsPointers, ", "))
			}
			return true
		})
	}
}

func calledName(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// isPointerToUintptr recognises uintptr(unsafe.Pointer(...)).
func isPointerToUintptr(call *ast.CallExpr) bool {
	if calledName(call) != "uintptr" || len(call.Args) != 1 {
		return false
	}
	inner, ok := call.Args[0].(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := inner.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Pointer"
}
