package kernels

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Tree is what the guest's root directory will hold: guest path without leading slash -> host path of a regular file.
type Tree struct {
	files map[string]string
	data  map[string][]byte
	links map[string]string
}

// NewTree returns an empty tree.
func NewTree() *Tree {
	return &Tree{files: map[string]string{}, data: map[string][]byte{}, links: map[string]string{}}
}

// AddFile puts the host's file at guest, with the host's permissions.
func (t *Tree) AddFile(guest, host string) { t.files[clean(guest)] = host }

// AddData puts a file with this content at guest.
func (t *Tree) AddData(guest string, b []byte) { t.data[clean(guest)] = b }

// AddLink puts a symbolic link at guest.
func (t *Tree) AddLink(guest, target string) { t.links[clean(guest)] = target }

// AddDir puts every regular file and symbolic link under the host's directory below guest. A directory that does not
// exist is an empty one.
func (t *Tree) AddDir(guest, host string) error {
	err := filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		switch {
		case d.Type().IsRegular():
			t.AddFile(path.Join(guest, rel), p)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			t.AddLink(path.Join(guest, rel), target)
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func clean(guest string) string { return strings.TrimPrefix(path.Clean("/"+guest), "/") }

// baseDirs exist in every guest; most are mount points.
var baseDirs = []string{"dev", "etc", "proc", "root", "run", "sys", "tmp", "bin", "sbin", "usr", "var"}

// write packs the tree and the plan into an initramfs at name.
func (t *Tree) write(name string, plan Plan) error {
	p, err := json.Marshal(plan)
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	t.AddData(PlanPath, p)
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := t.pack(&cpioWriter{w: out}); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return out.Close()
}

func (t *Tree) pack(c *cpioWriter) error {
	names := slices.Concat(slices.Collect(maps.Keys(t.files)), slices.Collect(maps.Keys(t.data)),
		slices.Collect(maps.Keys(t.links)))
	slices.Sort(names)
	dirs := slices.Clone(baseDirs)
	for _, n := range names {
		for d := path.Dir(n); d != "."; d = path.Dir(d) {
			dirs = append(dirs, d)
		}
	}
	slices.Sort(dirs) // parents sort before their children
	for _, d := range slices.Compact(dirs) {
		c.dir(d, 0o755)
	}
	c.char("dev/console", 0o600, 5, 1) // the kernel opens it for init before anything is mounted
	c.char("dev/null", 0o666, 1, 3)
	for _, n := range slices.Compact(names) {
		if err := t.packOne(c, n); err != nil {
			return err
		}
	}
	return c.close()
}

func (t *Tree) packOne(c *cpioWriter, name string) error {
	if b, ok := t.data[name]; ok {
		c.file(name, 0o644, int64(len(b)), bytes.NewReader(b))
		return nil
	}
	if target, ok := t.links[name]; ok {
		c.symlink(name, target)
		return nil
	}
	f, err := os.Open(t.files[name])
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	c.file(name, st.Mode().Perm(), st.Size(), f)
	return nil
}
