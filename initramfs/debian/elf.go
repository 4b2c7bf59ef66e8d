package debian

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
)

// libraryDirs are where Debian's loader looks, and where packages have their libraries, before and
// after the /usr merge.
var libraryDirs = []string{
	"usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib",
}

// Library is a shared library, or the loader itself, that a program needs.
type Library struct {
	Path    string // where the program looks for it: /usr/lib/x86_64-linux-gnu/libc.so.6
	Source  string // the file that has it, on this machine
	Package Package
}

// Libraries finds everything that the dynamic loader needs to start the programs (paths of ELF files on
// this machine), in the packages given, and nothing from the machine that builds. The result is sorted
// by path. A library that no package has is an error that names who needs it.
func Libraries(programs []string, packages []Package) ([]Library, error) {
	found := map[string]Library{} // by soname, or by the interpreter's path
	type need struct{ file, by string }
	var todo []need
	for _, p := range programs {
		todo = append(todo, need{p, ""})
	}
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		interp, needed, err := dynamic(n.file)
		if err != nil {
			return nil, err
		}
		if interp != "" {
			needed = append([]string{interp}, needed...)
		}
		for _, name := range needed {
			if _, ok := found[name]; ok {
				continue
			}
			lib, err := findLibrary(name, packages)
			if err != nil {
				return nil, fmt.Errorf("%s needs %w", n.file, err)
			}
			found[name] = lib
			if strings.Contains(name, "/") {
				found[path.Base(name)] = lib // libc names the loader by soname: no second copy
			}
			todo = append(todo, need{lib.Source, n.file})
		}
	}
	byPath := map[string]Library{}
	for _, l := range found {
		byPath[l.Path] = l
	}
	libs := make([]Library, 0, len(byPath))
	for _, l := range byPath {
		libs = append(libs, l)
	}
	sort.Slice(libs, func(i, j int) bool { return libs[i].Path < libs[j].Path })
	return libs, nil
}

// dynamic reads what the ELF file asks of the loader; nothing if it is static.
func dynamic(file string) (interp string, needed []string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", file, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return "", nil, fmt.Errorf("%s is for %s, want amd64", file, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return "", nil, fmt.Errorf("%s: read its interpreter: %w", file, err)
		}
		interp = strings.TrimRight(string(b), "\x00")
	}
	needed, err = f.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return "", nil, fmt.Errorf("%s: %w", file, err)
	}
	return interp, needed, nil
}

func findLibrary(name string, packages []Package) (Library, error) {
	if strings.Contains(name, "/") { // the loader, by its full path; libraries may name it by soname too
		clean := path.Clean("/" + name)
		for _, p := range packages {
			if src, err := Resolve(p.Root, clean); err == nil {
				return Library{Path: Merged(clean), Source: src, Package: p}, nil
			}
		}
		return Library{}, fmt.Errorf("%s, which is in none of the packages: add its package to pins.json", name)
	}
	for _, p := range packages {
		for _, dir := range libraryDirs {
			if src, err := Resolve(p.Root, path.Join("/", dir, name)); err == nil {
				return Library{Path: Merged(path.Join("/", dir, name)), Source: src, Package: p}, nil
			}
		}
	}
	return Library{}, fmt.Errorf("%s, which is in none of the packages: add its package to pins.json", name)
}

// Merged is the path in a tree where /bin, /sbin, /lib and /lib64 are links into /usr.
func Merged(p string) string {
	p = path.Clean("/" + p)
	for _, d := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(p, d) {
			return "/usr" + p
		}
	}
	return p
}

// Resolve finds the regular file that name means within root, following links as if root were /, so
// that a package's absolute links stay inside the package. Both forms of a merged path are tried.
func Resolve(root, name string) (string, error) {
	name = path.Clean("/" + name)
	forms := []string{name}
	if m := Merged(name); m != name {
		forms = append(forms, m)
	} else if rest, ok := strings.CutPrefix(name, "/usr"); ok && Merged(rest) == name {
		forms = append(forms, rest)
	}
	for _, f := range forms {
		if src, err := resolveLinks(root, f); err == nil {
			return src, nil
		}
	}
	return "", fmt.Errorf("%s in %s: %w", name, path.Base(root), fs.ErrNotExist)
}

func resolveLinks(root, name string) (string, error) {
	todo := strings.Split(strings.TrimPrefix(name, "/"), "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		at, todo = path.Join(at, todo[0]), todo[1:] // Join never leaves "/"
		st, err := os.Lstat(root + at)
		if err != nil {
			return "", err
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: too many links", name)
		}
		target, err := os.Readlink(root + at)
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			at = "/"
		} else {
			at = path.Dir(at)
		}
		todo = append(strings.Split(strings.Trim(target, "/"), "/"), todo...)
	}
	if st, err := os.Lstat(root + at); err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a file", name)
	}
	return root + at, nil
}
