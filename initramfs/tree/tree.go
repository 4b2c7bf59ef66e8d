// Package tree is a file tree in the making, in memory: what an initramfs or a layer of a container
// image will hold. It says nothing of the format that it is written in.
//
// Invariants: every path is clean and absolute; every file's folders are there; the tree is walked in
// one order, so the same content gives the same bytes whatever order it was put in. Nothing is
// replaced silently: adding a path twice is an error, unless it is the same folder.
package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
)

// Entry is one file, folder, link or device. Everything belongs to root and has no time.
type Entry struct {
	// Mode has the type and permission bits.
	Mode fs.FileMode
	// Data is the content of a regular file.
	Data []byte
	// Target is where a symbolic link leads.
	Target string
	// Major and Minor are of a character device.
	Major, Minor uint32
}

// Tree is a set of entries. The zero value is not usable: call New.
type Tree struct {
	entries map[string]Entry
}

// New returns a tree with nothing in it but the root folder.
func New() *Tree { return &Tree{entries: map[string]Entry{"/": {Mode: fs.ModeDir | 0o755}}} }

// NewMerged returns a tree with Debian's merged /usr: /bin, /sbin, /lib and /lib64 are links into it.
func NewMerged() *Tree {
	t := New()
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		t.entries["/usr/"+d] = Entry{Mode: fs.ModeDir | 0o755}
		t.entries["/"+d] = Entry{Mode: fs.ModeSymlink | 0o777, Target: "usr/" + d}
	}
	t.entries["/usr"] = Entry{Mode: fs.ModeDir | 0o755}
	return t
}

// Add puts an entry at the path, making its folders (mode 0755) where need be. A folder on the way that
// is a link is followed.
func (t *Tree) Add(name string, e Entry) error {
	name, err := t.real(path.Clean("/" + name))
	if err != nil {
		return err
	}
	if old, ok := t.entries[name]; ok {
		if old.Mode.IsDir() && e.Mode.IsDir() {
			t.entries[name] = e
			return nil
		}
		return fmt.Errorf("%s is in the tree already", name)
	}
	if err := t.parents(name); err != nil {
		return err
	}
	t.entries[name] = e
	return nil
}

func (t *Tree) parents(name string) error {
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		e, ok := t.entries[dir]
		if ok && !e.Mode.IsDir() {
			return fmt.Errorf("%s: %s is not a folder", name, dir)
		}
		if !ok {
			t.entries[dir] = Entry{Mode: fs.ModeDir | 0o755}
		}
	}
	return nil
}

// real follows links among the folders of name, so that /bin/x lands in /usr/bin/x.
func (t *Tree) real(name string) (string, error) {
	for links := 0; links < 40; links++ {
		moved := false
		for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
			e, ok := t.entries[dir]
			if !ok || e.Mode&fs.ModeSymlink == 0 {
				continue
			}
			target := e.Target
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(dir), target)
			}
			name, moved = path.Join("/", target, name[len(dir):]), true
			break
		}
		if !moved {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s: too many links", name)
}

// File adds a regular file.
func (t *Tree) File(name string, perm fs.FileMode, data []byte) error {
	return t.Add(name, Entry{Mode: perm.Perm(), Data: data})
}

// Copy adds a regular file with the content of a file of this machine.
func (t *Tree) Copy(name string, perm fs.FileMode, source string) error {
	data, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return t.File(name, perm, data)
}

// Dir adds an empty folder. The sticky bit of perm is kept.
func (t *Tree) Dir(name string, perm fs.FileMode) error {
	return t.Add(name, Entry{Mode: fs.ModeDir | perm&(fs.ModePerm|fs.ModeSticky)})
}

// Link adds a symbolic link.
func (t *Tree) Link(name, target string) error {
	return t.Add(name, Entry{Mode: fs.ModeSymlink | 0o777, Target: target})
}

// Device adds a character device.
func (t *Tree) Device(name string, perm fs.FileMode, major, minor uint32) error {
	return t.Add(name, Entry{Mode: fs.ModeDevice | fs.ModeCharDevice | perm.Perm(), Major: major, Minor: minor})
}

// Walk calls f for every entry but the root, sorted so that folders come before what they hold.
func (t *Tree) Walk(f func(name string, e Entry) error) error {
	names := make([]string, 0, len(t.entries))
	for n := range t.entries {
		if n != "/" {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	for _, n := range names {
		if err := f(n, t.entries[n]); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return nil
}

// Get returns the entry at exactly this path.
func (t *Tree) Get(name string) (Entry, bool) {
	e, ok := t.entries[path.Clean("/"+name)]
	return e, ok
}

// Size is the sum of all regular files, bytes.
func (t *Tree) Size() int64 {
	var n int64
	for _, e := range t.entries {
		n += int64(len(e.Data))
	}
	return n
}
