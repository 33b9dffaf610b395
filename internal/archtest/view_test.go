package archtest

import (
	"go/ast"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// placed are the packages that look at processes and files in a place (package view), and of them those that look names
// up. The others are about this process itself.
var (
	placed = []string{
		"snapshot", "restore", "fdtable", "tracer", "agent", "internal/host", "internal/holders", "internal/carry",
		"internal/control", "internal/kstate/proc",
	}
	naming = []string{"snapshot", "fdtable", "internal/host"}
	lookup = []string{
		"unix.Stat", "unix.Lstat", "unix.Statx", "unix.Statfs", "os.Stat", "os.Lstat", "os.ReadDir",
	}
)

// itself are the names below /proc/self of what a process has wherever it looks from.
var itself = []string{"/proc/self/fd", "/proc/self/exe", "/proc/self/map_files"}

// Who looks at something in a place does so through the view that he was given, not from where this process happens to
// be.
func TestLooksThroughTheView(t *testing.T) {
	for file, tree := range goFiles(t) {
		dir := filepath.Dir(file)
		if !slices.Contains(placed, dir) || strings.HasSuffix(file, "_test.go") {
			continue
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if why := looksPast(n, slices.Contains(naming, dir)); why != "" {
				t.Errorf("%s: %s is asked of this process's own place: it is the view's", file, why)
			}
			return true
		})
	}
}

// looksPast names what a node looks at past the view, "" if it does not.
func looksPast(n ast.Node, names bool) string {
	switch n := n.(type) {
	case *ast.BasicLit:
		text, _ := strconv.Unquote(n.Value)
		below := func(p string) bool { return strings.HasPrefix(text, p) }
		if below("/proc/self") && !slices.ContainsFunc(itself, below) {
			return text
		}
	case *ast.CallExpr:
		switch name := selected(n); {
		case name == "procfs.Pid" || name == "timens.Of":
			if isCallOf(n.Args[0], "os.Getpid") {
				return name + "(os.Getpid())"
			}
		case names && slices.Contains(lookup, name):
			return name
		}
	}
	return ""
}

func isCallOf(n ast.Expr, name string) bool {
	call, ok := n.(*ast.CallExpr)
	return ok && selected(call) == name
}

// selected is what a call calls, if that is package.Function.
func selected(call *ast.CallExpr) string {
	if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
		if pkg, ok := sel.X.(*ast.Ident); ok {
			return pkg.Name + "." + sel.Sel.Name
		}
	}
	return ""
}
