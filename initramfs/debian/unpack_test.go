package debian

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnpack(t *testing.T) {
	dst := t.TempDir()
	deb := makeDeb(t, dir("./"), dir("./usr/"), dir("./usr/bin/"), file("./usr/bin/x", "hello"),
		symlink("./usr/bin/y", "x"), hardlink("./usr/bin/z", "./usr/bin/x"), symlink("./etc/abs", "/usr/bin/x"), file("./lib/a/b/c", "deep"))
	if err := Unpack(bytes.NewReader(deb), dst); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"usr/bin/x": "hello", "usr/bin/y": "hello", "usr/bin/z": "hello", "lib/a/b/c": "deep"} {
		got, err := os.ReadFile(filepath.Join(dst, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, want)
		}
	}
	if got, err := os.Readlink(filepath.Join(dst, "etc/abs")); got != "/usr/bin/x" {
		t.Errorf("absolute link: got %q, %v", got, err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	tests := map[string]struct {
		deb  []byte
		want string
	}{
		"not ar":           {[]byte("PK\x03\x04"), "ar magic"},
		"empty":            {nil, "ar magic"},
		"no data":          {arOf(t, arMember{"debian-binary", []byte("2.0\n")}), "no data.tar"},
		"unknown packing":  {arOf(t, arMember{"data.tar.rar", []byte("x")}), "unknown compression"},
		"cut short":        {makeDeb(t, file("a", strings.Repeat("x", 1000)))[:300], "unexpected EOF"},
		"dot dot":          {makeDeb(t, file("../evil", "x")), "outside its root"},
		"dot dot inside":   {makeDeb(t, file("usr/../../evil", "x")), "outside its root"},
		"through a link":   {makeDeb(t, symlink("out", ".."), file("out/evil", "x")), "escapes"},
		"absolute link":    {makeDeb(t, symlink("out", "/"), file("out/evil", "x")), "escapes"},
		"link to itself":   {makeDeb(t, symlink("a", "a"), file("a/x", "x")), ""},
		"hard link out":    {makeDeb(t, hardlink("a", "../../etc/passwd")), "escapes"},
		"overwrite":        {makeDeb(t, symlink("a", "b"), file("a", "x")), "exists"},
		"device":           {makeDeb(t, tar.Header{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}), "unexpected kind"},
		"file as a folder": {makeDeb(t, file("a", "x"), file("a/b", "y")), "exists"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dst := filepath.Join(top, "in", "side")
			if err := os.MkdirAll(dst, 0o755); err != nil {
				t.Fatal(err)
			}
			err := Unpack(bytes.NewReader(test.deb), dst)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
			onlyInside(t, top, dst)
		})
	}
}

// onlyInside fails the test if anything but dst has come up in top.
func onlyInside(t *testing.T, top, dst string) {
	t.Helper()
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(p, dst+"/") {
			t.Errorf("%s was written outside the package's folder", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// FuzzUnpack: no package, whatever its bytes, writes outside its folder or crashes.
func FuzzUnpack(f *testing.F) {
	f.Add(makeDeb(f, dir("./"), file("./a", "x"), symlink("./b", "a"), hardlink("./c", "./a")))
	f.Add(makeDeb(f, symlink("out", ".."), file("out/evil", "x")))
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, deb []byte) {
		top := t.TempDir()
		dst := filepath.Join(top, "d")
		if err := os.Mkdir(dst, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Unpack(bytes.NewReader(deb), dst)
		onlyInside(t, top, dst)
	})
}

// FuzzUntar goes past the checksum of gzip, which keeps FuzzUnpack out of tar.
func FuzzUntar(f *testing.F) {
	for _, entries := range [][]tar.Header{
		{dir("./"), file("./a", "x"), symlink("./b", "a"), hardlink("./c", "./a")},
		{symlink("out", ".."), file("out/evil", "x")},
	} {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, h := range entries {
			content := h.Uname
			h.Uname, h.Size = "", int64(len(content))
			if err := tw.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
			if _, err := tw.Write([]byte(content)); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		dst := filepath.Join(top, "d")
		if err := os.Mkdir(dst, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dst)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = untar(bytes.NewReader(data), root)
		onlyInside(t, top, dst)
	})
}
