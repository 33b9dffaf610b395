package archtest

import (
	"go/ast"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// mostMethods is how many methods a type may have. One that has more knows of too many things: each of them is a type
// of its own.
const mostMethods = 25

// larger are the types that have more, and how many they may have.
var larger = map[string]int{
	"fdtable.builder":        40,
	"fdtable.capturer":       43,
	"image.Images":           29,
	"image.Writer":           40,
	"internal/lazy.server":   31,
	"internal/procfs.Dir":    33, // one for each file of a process
	"internal/ptrace.Thread": 39,
	"internal/ptrace.loan":   28,
	"tracer.Watcher":         65,
}

func TestNoTypeKnowsEverything(t *testing.T) {
	methods := map[string]map[string]bool{} // by package and type; those that each architecture has count once
	for file, tree := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, d := range tree.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil {
				continue
			}
			name := filepath.Dir(file) + "." + receiver(f.Recv.List[0].Type)
			if methods[name] == nil {
				methods[name] = map[string]bool{}
			}
			methods[name][f.Name.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		if n, most := len(methods[name]), max(mostMethods, larger[name]); n > most {
			t.Errorf("%s has %d methods, more than %d: make types of the things that it knows", name, n, most)
		}
	}
	for name := range larger {
		if n := len(methods[name]); n <= mostMethods {
			t.Errorf("%s has %d methods: it needs no exception", name, n)
		}
	}
}

// receiver is the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}
