package debian

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// repository is a flat apt repository in a folder, which the machine's real apt reads for the test.
type repository struct {
	t   *testing.T
	dir string
}

func newRepository(t *testing.T) *repository {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get")
	}
	r := &repository{t, t.TempDir()}
	conf := t.TempDir()
	r.write(filepath.Join(conf, "sources.list"), fmt.Sprintf("deb [trusted=yes] file:%s ./\n", r.dir))
	r.write(filepath.Join(conf, "apt.conf"), fmt.Sprintf("Dir::Etc::SourceList %q;\nDir::Etc::SourceParts \"/dev/null\";\n", filepath.Join(conf, "sources.list")))
	t.Setenv("APT_CONFIG", filepath.Join(conf, "apt.conf"))
	r.publish()
	return r
}

func (r *repository) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

type published struct {
	name, version, depends string
	deb                    []byte
}

// publish replaces what the repository has.
func (r *repository) publish(packages ...published) {
	r.t.Helper()
	var index strings.Builder
	for _, p := range packages {
		file := fmt.Sprintf("%s_%s_amd64.deb", p.name, p.version)
		r.write(filepath.Join(r.dir, file), string(p.deb))
		fmt.Fprintf(&index, "Package: %s\nVersion: %s\nArchitecture: amd64\nMaintainer: nobody\nDescription: test\n", p.name, p.version)
		if p.depends != "" {
			fmt.Fprintf(&index, "Depends: %s\n", p.depends)
		}
		fmt.Fprintf(&index, "Filename: ./%s\nSize: %d\nSHA256: %s\n\n", file, len(p.deb), sumOf(p.deb))
	}
	r.write(filepath.Join(r.dir, "Packages"), index.String())
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func fetch(t *testing.T, dir string, pins Pins, name string) (Package, string, error) {
	t.Helper()
	var log bytes.Buffer
	p, err := (&Archive{Dir: dir, Pins: pins, Log: &log}).Fetch(t.Context(), name)
	return p, log.String(), err
}

func content(t *testing.T, p Package) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(p.Root, "usr/bin/x"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestFetchPinned(t *testing.T) {
	repo := newRepository(t)
	deb := makeDeb(t, file("usr/bin/x", "one"))
	repo.publish(published{name: "prog", version: "1:1.0-1", deb: deb})
	pins := Pins{"prog": {Version: "1:1.0-1", SHA256: sumOf(deb)}}
	dir := t.TempDir()
	p, log, err := fetch(t, dir, pins, "prog")
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, p); got != "one" || p.Replaces != "" || p.SHA256 != sumOf(deb) || strings.Contains(log, "left the archive") {
		t.Errorf("got %q of %+v, log %q", got, p, log)
	}
	// From here on neither the archive nor the download is needed.
	repo.publish()
	if _, _, err := fetch(t, dir, pins, "prog"); err != nil {
		t.Errorf("from the cache: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "unpacked")); err != nil {
		t.Fatal(err)
	}
	if p, _, err = fetch(t, dir, pins, "prog"); err != nil || content(t, p) != "one" {
		t.Errorf("from the cached package: %v", err)
	}
}

func TestFetchIndexOlderThanPin(t *testing.T) {
	repo := newRepository(t)
	a, b := makeDeb(t, file("usr/bin/x", "one")), makeDeb(t, file("usr/bin/x", "two"))
	repo.publish(published{name: "a", version: "1", deb: a})
	dir := t.TempDir()
	if _, _, err := fetch(t, dir, Pins{"a": {Version: "1", SHA256: sumOf(a)}}, "a"); err != nil {
		t.Fatal(err)
	}
	repo.publish(published{name: "b", version: "2", deb: b}) // after the day's index was fetched
	p, log, err := fetch(t, dir, Pins{"b": {Version: "2", SHA256: sumOf(b)}}, "b")
	if err != nil || content(t, p) != "two" || p.Replaces != "" {
		t.Errorf("got %+v, %v, log %q", p, err, log)
	}
}

func TestFetchReplaced(t *testing.T) {
	repo := newRepository(t)
	old, new := makeDeb(t, file("usr/bin/x", "old")), makeDeb(t, file("usr/bin/x", "new"))
	repo.publish(published{name: "prog", version: "2", deb: new})
	pins := Pins{"prog": {Version: "1", SHA256: sumOf(old)}}
	dir := t.TempDir()
	for _, round := range []string{"from the archive", "from the cache"} {
		p, log, err := fetch(t, dir, pins, "prog")
		if err != nil {
			t.Fatalf("%s: %v", round, err)
		}
		if content(t, p) != "new" || p.Version != "2" || p.Replaces != "prog 1" || p.SHA256 != sumOf(new) {
			t.Errorf("%s: got %+v", round, p)
		}
		if want := "prog 1 has left the archive; using prog 2 instead"; !strings.Contains(log, want) {
			t.Errorf("%s: log %q does not say %q", round, log, want)
		}
		repo.publish()
	}
}

func TestFetchFollowsKernel(t *testing.T) {
	repo := newRepository(t)
	next := makeDeb(t, file("usr/bin/x", "kernel 57"))
	repo.publish(published{name: "linux-image-6.1.0-57-amd64", version: "6.1.200-1", deb: next},
		published{name: "linux-image-amd64", version: "6.1.200-1", depends: "linux-image-6.1.0-57-amd64 (= 6.1.200-1)", deb: makeDeb(t)})
	pins := Pins{"linux-image-6.1.0-56-amd64": {Version: "6.1.192-2", SHA256: sumOf(nil), Follow: "linux-image-amd64"}}
	p, log, err := fetch(t, t.TempDir(), pins, "linux-image-6.1.0-56-amd64")
	if err != nil {
		t.Fatalf("%v; log %s", err, log)
	}
	if p.Name != "linux-image-6.1.0-57-amd64" || content(t, p) != "kernel 57" || p.Replaces != "linux-image-6.1.0-56-amd64 6.1.192-2" {
		t.Errorf("got %+v", p)
	}
}

func TestFetchRefuses(t *testing.T) {
	repo := newRepository(t)
	deb := makeDeb(t, file("usr/bin/x", "one"))
	repo.publish(published{name: "prog", version: "1", deb: deb})
	dir := t.TempDir()
	pins := Pins{"prog": {Version: "1", SHA256: sumOf([]byte("other"))}, "gone": {Version: "1", SHA256: sumOf(deb)}}
	for name, want := range map[string]string{
		"prog":    "not the one that was pinned",
		"gone":    "neither this version nor another",
		"unknown": "not pinned",
	} {
		if _, _, err := fetch(t, dir, pins, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, want)
		}
	}
	if _, _, err := fetch(t, dir, Pins{"prog": {Version: "1", SHA256: sumOf(deb)}}, "prog"); err != nil {
		t.Errorf("after a refusal the right pin must still work: %v", err)
	}
}

func TestFetchWithoutArchive(t *testing.T) {
	repo := newRepository(t)
	if err := os.RemoveAll(repo.dir); err != nil {
		t.Fatal(err)
	}
	_, _, err := fetch(t, t.TempDir(), Pins{"prog": {Version: "1", SHA256: sumOf(nil)}}, "prog")
	if err == nil || !strings.Contains(err.Error(), "package prog 1") || !strings.Contains(err.Error(), "apt-get update") {
		t.Errorf("got %v, want an error that names the package and apt-get update", err)
	}
}

// Two builds share a cache folder, as tests do that run side by side.
func TestFetchAtOnce(t *testing.T) {
	repo := newRepository(t)
	deb := makeDeb(t, file("usr/bin/x", "one"))
	repo.publish(published{name: "prog", version: "1", deb: deb})
	pins := Pins{"prog": {Version: "1", SHA256: sumOf(deb)}}
	dir := t.TempDir()
	errs := make(chan error)
	for range 4 {
		go func() {
			_, err := (&Archive{Dir: dir, Pins: pins, Log: io.Discard}).Fetch(t.Context(), "prog")
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
