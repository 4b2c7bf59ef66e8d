package debian

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestResolve(t *testing.T) {
	root := t.TempDir()
	deb := makeDeb(t, file("usr/lib/x86_64-linux-gnu/libx.so.1.2", "lib"), symlink("usr/lib/x86_64-linux-gnu/libx.so.1", "libx.so.1.2"),
		file("sbin/tool", "t"), symlink("usr/bin/tool", "/sbin/tool"), symlink("etc/out", "/../../etc/hostname"), symlink("loop", "loop"), symlink("dangling", "nowhere"))
	if err := Unpack(strings.NewReader(string(deb)), root); err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"/usr/lib/x86_64-linux-gnu/libx.so.1": "/usr/lib/x86_64-linux-gnu/libx.so.1.2",
		"/lib/x86_64-linux-gnu/libx.so.1":     "/usr/lib/x86_64-linux-gnu/libx.so.1.2", // the other form of a merged path
		"/usr/bin/tool":                       "/sbin/tool",
		"/usr/sbin/tool":                      "/sbin/tool",
		"/sbin/../sbin/tool":                  "/sbin/tool",
		"/etc/out":                            "", // stays inside, where there is no /etc/hostname
		"/loop":                               "",
		"/dangling":                           "",
		"/usr/bin":                            "", // a folder
	}
	for name, want := range tests {
		got, err := Resolve(root, name)
		if want == "" {
			if err == nil {
				t.Errorf("%s: got %s, want an error", name, got)
			}
			continue
		}
		if err != nil || got != root+want {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, root+want)
		}
	}
}

func TestMerged(t *testing.T) {
	for in, want := range map[string]string{
		"/lib64/ld.so": "/usr/lib64/ld.so", "/lib/x": "/usr/lib/x", "/usr/lib/x": "/usr/lib/x", "sbin/a": "/usr/sbin/a", "/library/x": "/library/x",
	} {
		if got := Merged(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// The machine's own program and root stand for a package: any dynamic program will do.
func TestLibraries(t *testing.T) {
	const program = "/bin/ls"
	interp, needed, err := dynamic(program)
	if err != nil || interp == "" || len(needed) == 0 {
		t.Skipf("%s is not a dynamic amd64 program here (%v)", program, err)
	}
	libs, err := Libraries([]string{program}, []Package{{Name: "machine", Root: "/"}})
	if err != nil {
		t.Skipf("this machine does not have its libraries where Debian has them: %v", err)
	}
	seen := map[string]int{}
	for i, l := range libs {
		seen[filepath.Base(l.Path)]++
		if i > 0 && libs[i-1].Path >= l.Path {
			t.Errorf("%s comes after %s", l.Path, libs[i-1].Path)
		}
		if st, err := os.Lstat(l.Source); err != nil || !st.Mode().IsRegular() {
			t.Errorf("%s: source %s is not a file", l.Path, l.Source)
		}
	}
	for _, want := range append(needed, filepath.Base(interp)) {
		if seen[want] != 1 {
			t.Errorf("%s: got %d copies, want 1", want, seen[want])
		}
	}
	_, err = Libraries([]string{program}, []Package{{Name: "empty", Root: t.TempDir()}})
	if err == nil || !strings.Contains(err.Error(), program+" needs "+interp) {
		t.Errorf("missing library: got %v", err)
	}
}
