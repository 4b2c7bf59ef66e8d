package tree

import (
	"io/fs"
	"path"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMergedLandsInUsr(t *testing.T) {
	tr := NewMerged()
	for name, want := range map[string]string{
		"/bin/a": "/usr/bin/a", "lib/modules/1/b.ko": "/usr/lib/modules/1/b.ko", "/usr/sbin/c": "/usr/sbin/c", "/lib64/../lib/d": "/usr/lib/d",
	} {
		if err := tr.File(name, 0o644, nil); err != nil {
			t.Fatal(err)
		}
		if _, ok := tr.Get(want); !ok {
			t.Errorf("%s is not at %s", name, want)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	tr := New()
	for _, err := range []error{tr.File("/a", 0o644, nil), tr.Link("/loop", "loop"), tr.Dir("/d", 0o755), tr.Dir("/d", 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"/a": "already", "/a/b": "not a folder", "/loop/x": "too many links", "/d": "already", "/": "already"} {
		if err := tr.File(name, 0o644, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, want)
		}
	}
}

// The order in which files are added never shows, and folders always come before what they hold.
func TestWalkOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-c](/[a-c-]){0,3}/f[0-9]`), 1, 20, rapid.ID).Draw(t, "names")
		walk := func(names []string) []string {
			tr := New()
			for _, n := range names {
				if err := tr.File(n, 0o644, []byte(n)); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			seen := map[string]bool{"/": true}
			err := tr.Walk(func(name string, e Entry) error {
				if !seen[path.Dir(name)] {
					t.Fatalf("%s came before its folder", name)
				}
				seen[name] = e.Mode.IsDir()
				got = append(got, name+" "+e.Mode.String()+" "+string(e.Data))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		if a, b := walk(names), walk(rapid.Permutation(names).Draw(t, "other order")); !reflect.DeepEqual(a, b) {
			t.Fatalf("got %q in one order, %q in another", a, b)
		}
	})
}

func TestEntries(t *testing.T) {
	tr := New()
	if err := tr.Dir("/tmp", 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := tr.Device("/dev/console", 0o600, 5, 1); err != nil {
		t.Fatal(err)
	}
	if e, _ := tr.Get("/tmp"); e.Mode != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("/tmp: got %s", e.Mode)
	}
	if e, _ := tr.Get("/dev/console"); e.Mode.Type() != fs.ModeDevice|fs.ModeCharDevice || e.Major != 5 || e.Minor != 1 {
		t.Errorf("/dev/console: got %+v", e)
	}
}
