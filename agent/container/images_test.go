package container

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/skein-os/skein/agent/cluster"
	"golang.org/x/sys/unix"

	stdlog "log"
)

func smallImage(t testing.TB, content string) v1.Image {
	return image(t, v1.Config{Cmd: []string{"/hello"}, User: "7"},
		tarOf(t, dir("etc/"), file("etc/one", "1"), file("etc/two", "2"), dir("old/"), file("old/x", "x")),
		tarOf(t, file("hello", content), file("etc/.wh.two", ""), file("old/.wh..wh..opq", ""), file("old/new", "n")))
}

func load(t *testing.T, s *Images, ref string, img v1.Image) cluster.Image {
	t.Helper()
	got, err := s.Load(t.Context(), bytes.NewReader(ociArchive(t, ref, img)))
	if err != nil || len(got) != 1 {
		t.Fatalf("load: got %v, %v, want one image", got, err)
	}
	return got[0]
}

func TestLoadAndPrepare(t *testing.T) {
	s := openImages(t, Limits{})
	img := smallImage(t, "hello")
	im := load(t, s, "demo/small:1", img)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if im.Ref != "demo/small:1" || im.Digest != digest.String() || len(im.Blobs) != 4 || im.Source != SourceArchive || im.Size == 0 {
		t.Errorf("got %+v", im)
	}
	// All at once, as instances of one service start.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Prepare(context.Background(), im.Digest); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	root, err := s.Prepare(t.Context(), im.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if root.Config.User != "7" {
		t.Errorf("got config %+v", root.Config)
	}
	for p, want := range map[string]string{"hello": "hello", "etc/one": "1", "etc/two": "", "old/x": "", "old/new": "n"} {
		if got, _ := os.ReadFile(filepath.Join(root.Dir, p)); string(got) != want {
			t.Errorf("%s: got %q, want %q", p, got, want)
		}
	}
	// A new agent finds it all.
	again, err := OpenImages(s.dir, Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Find("docker.io/demo/small:1", ""); err != nil || got.Digest != im.Digest {
		t.Errorf("after opening again: got %v, %v", got, err)
	}
}

func TestLoadForms(t *testing.T) {
	img := smallImage(t, "hello")
	tag, err := name.NewTag("demo/saved:2")
	if err != nil {
		t.Fatal(err)
	}
	var docker, zipped bytes.Buffer
	if err := tarball.Write(tag, img, &docker); err != nil {
		t.Fatal(err)
	}
	zw := gzip.NewWriter(&zipped)
	if _, err := zw.Write(ociArchive(t, "demo/zipped", img)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"docker save", "demo/saved:2", docker.Bytes()},
		{"gzip, no tag", "demo/zipped:latest", zipped.Bytes()},
		{"library", "nginx:1", ociArchive(t, "docker.io/library/nginx:1", img)},
		{"registry", "example.org:5000/a/b:1", ociArchive(t, "example.org:5000/a/b:1", img)},
	} {
		s := openImages(t, Limits{})
		got, err := s.Load(t.Context(), bytes.NewReader(c.data))
		if err != nil || len(got) != 1 || got[0].Ref != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.name, got, err, c.want)
			continue
		}
		root, err := s.Prepare(t.Context(), got[0].Digest)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if data, err := os.ReadFile(root.Dir + "/hello"); string(data) != "hello" {
			t.Errorf("%s: got %q, %v", c.name, data, err)
		}
	}
}

// blobsIn is what is in the store, whoever owns it.
func blobsIn(t *testing.T, s *Images) int {
	t.Helper()
	n := 0
	for _, d := range []string{"blobs/sha256", "ingest", "roots"} {
		e, err := os.ReadDir(s.path(d))
		if err != nil {
			t.Fatal(err)
		}
		n += len(e)
	}
	return n
}

// TestLoadHostile: each archive is refused with the error it deserves, nothing stays in the store, and
// nothing is written beside it.
func TestLoadHostile(t *testing.T) {
	zeros := strings.Repeat("0", 64)
	index := func(digest string) entry {
		return file("index.json", fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":1,"annotations":{"org.opencontainers.image.ref.name":"a/b:1"}}]}`, digest))
	}
	huge := file("blobs/sha256/"+zeros, "")
	huge.Size = 1 << 40
	var many []entry
	for i := range 40 {
		many = append(many, file(fmt.Sprint(i), fmt.Sprint(i)))
	}
	valid := ociArchive(t, "demo/small:1", smallImage(t, "hello"))
	var hugeTar bytes.Buffer
	w := tar.NewWriter(&hugeTar)
	if err := w.WriteHeader(&huge.Header); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
		is   error
	}{
		{"empty", nil, "index.json", nil},
		{"no tar", []byte("this is not a tar archive, whatever its name says" + strings.Repeat(" ", 1000)), "image layout", nil},
		{"truncated", tarOf(t, file("blobs/sha256/"+zeros, strings.Repeat("x", 4096)))[:2000], "", io.ErrUnexpectedEOF},
		{"wrong content", tarOf(t, file("blobs/sha256/"+zeros, "x")), "", ErrDigest},
		{"huge blob", hugeTar.Bytes(), "", ErrTooLarge},
		{"many entries", tarOf(t, many...), "entries", ErrTooLarge},
		{"climbs out", tarOf(t, file("../../../../tmp/skein-evil", "x"), index("sha256:"+zeros)), "not found", ErrNotFound},
		{"digest is a path", tarOf(t, index("sha256:../../../../../../../../etc/passwd")), "index.json", nil},
		{"digest is another algorithm", tarOf(t, index("sha512:"+zeros+zeros)), "only sha256", nil},
		{"missing manifest", tarOf(t, index("sha256:"+zeros)), "", ErrNotFound},
		{"device", tarOf(t, entry{Header: tar.Header{Name: "x", Typeflag: tar.TypeBlock}}), "no place", nil},
		{"bad index", tarOf(t, file("index.json", "{")), "index.json", nil},
		{"large index", tarOf(t, file("index.json", strings.Repeat(" ", 1<<17))), "", ErrTooLarge},
		{"bad reference", bytes.ReplaceAll(valid, []byte("demo/small:1"), []byte("Demo/s all:1")), "reference", nil},
		{"docker names what is not there", tarOf(t, file("manifest.json", `[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]`)), "not in the archive", nil},
		{"docker layer links in a circle", tarOf(t, symlink("a", "b"), symlink("b", "a"), file("c.json", "{}"), file("manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["a"]}]`)), "not in the archive", nil},
	} {
		s := openImages(t, Limits{Archive: 1 << 20, Entries: 30, Document: 1 << 16})
		got, err := s.Load(t.Context(), bytes.NewReader(c.data))
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: got %v, %v, want an error with %q, %v", c.name, got, err, c.want, c.is)
		}
		if n := blobsIn(t, s); n != 0 {
			t.Errorf("%s: %d files stayed in the store", c.name, n)
		}
		if len(s.List()) != 0 {
			t.Errorf("%s: images are listed", c.name)
		}
	}
	if _, err := os.Stat("/tmp/skein-evil"); err == nil {
		t.Error("a file was written outside of the store")
	}
}

// TestPrepareHostile: layers that try to get out, or to fill the memory.
func TestPrepareHostile(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20) + outside[1:]
	link := func(name, to string) entry {
		return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}}
	}
	big := file("big", strings.Repeat("x", 200<<10))
	var many []entry
	for i := range 60 {
		many = append(many, dir(fmt.Sprintf("d%d/", i)))
	}
	xattr := file("cap", "x")
	xattr.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"}
	for _, c := range []struct {
		name  string
		layer []byte
		is    error
		fails bool
	}{
		{"absolute path", tarOf(t, file(victim, "evil")), nil, false},
		{"climbing path", tarOf(t, file(up+"/victim", "evil")), nil, false},
		{"through a link", tarOf(t, symlink("l", outside), file("l/victim", "evil")), nil, false},
		{"through a climbing link", tarOf(t, symlink("l", up), file("l/victim", "evil")), nil, false},
		{"hard link", tarOf(t, link("h", victim), file("h", "evil")), nil, true},
		{"whiteout of everything", tarOf(t, file(up+"/.wh.victim", ""), symlink("l", outside), file("l/.wh.victim", "")), nil, false},
		{"whiteout of the parent", tarOf(t, file(".wh...", "")), nil, true},
		{"device", tarOf(t, entry{Header: tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}}), nil, false},
		{"character device", tarOf(t, entry{Header: tar.Header{Name: "sda", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 1, Mode: 0o666}}), nil, false},
		{"hard link that climbs", tarOf(t, link("h", up+"/victim"), file("h", "evil")), nil, true},
		{"hard link to the parent", tarOf(t, link("h", "..")), nil, true},
		// Mode and owner of the entry must not reach what the symbolic link names.
		{"hard link to a symbolic link", tarOf(t, symlink("s", victim), entry{Header: tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "s", Mode: 0o777, Uid: 7}}), nil, false},
		{"file over a symbolic link", tarOf(t, symlink("s", victim), file("s", "evil")), nil, false},
		{"directory over a symbolic link", tarOf(t, symlink("s", outside), dir("s/"), file("s/victim", "evil")), nil, false},
		{"symbolic link over a directory", tarOf(t, dir("d/"), file("d/x", "x"), symlink("d", outside), file("d/victim", "evil")), nil, false},
		{"links in a circle", tarOf(t, symlink("a", "b"), symlink("b", "a"), file("a/x", "x")), nil, true},
		{"whiteout without a name", tarOf(t, file("d/.wh.", "")), nil, true},
		{"whiteout of itself", tarOf(t, file("d/.wh..", "")), nil, true},
		{"opaque through a link", tarOf(t, symlink("l", outside), file("l/.wh..wh..opq", "")), nil, false},
		{"opaque where nothing is", tarOf(t, file("new/.wh..wh..opq", "")), nil, false},
		{"opaque root", tarOf(t, file("x", "x"), file(".wh..wh..opq", "")), nil, false},
		{"deep", tarOf(t, file(strings.Repeat("d/", 60)+"x", "x")), ErrTooLarge, true},
		{"file capabilities", tarOf(t, xattr), nil, false},
		{"giant", tarOf(t, big), ErrTooLarge, true},
		{"many", tarOf(t, many...), ErrTooLarge, true},
		{"no tar", []byte(strings.Repeat("nonsense", 200)), nil, true},
	} {
		s := openImages(t, Limits{Unpacked: 128 << 10, Files: 50})
		im := load(t, s, "evil:1", image(t, v1.Config{Cmd: []string{"x"}}, c.layer))
		root, err := s.Prepare(t.Context(), im.Digest)
		if (err != nil) != c.fails || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: got %v, want an error: %v, %v", c.name, err, c.fails, c.is)
		}
		if got, err := os.ReadFile(victim); string(got) != "untouched" {
			t.Errorf("%s: file outside: got %q, %v", c.name, got, err)
			_ = os.WriteFile(victim, []byte("untouched"), 0o600)
		}
		if st, err := os.Stat(victim); err != nil || st.Mode() != 0o600 || st.Sys().(*syscall.Stat_t).Uid != uint32(os.Getuid()) {
			t.Errorf("%s: file outside: got %v, %v", c.name, st, err)
		}
		if list, err := os.ReadDir(outside); err != nil || len(list) != 1 {
			t.Errorf("%s: folder outside: got %v, %v", c.name, list, err)
		}
		if err != nil {
			if left, _ := filepath.Glob(s.path("roots", "*")); len(left) != 0 {
				t.Errorf("%s: %v stayed", c.name, left)
			}
			continue
		}
		if st, err := os.Lstat(root.Dir + "/sda"); err == nil {
			t.Errorf("%s: device node %v was made", c.name, st.Mode())
		}
		if n, err := unix.Lgetxattr(root.Dir+"/cap", "security.capability", make([]byte, 64)); err == nil {
			t.Errorf("%s: file has capabilities (%d bytes)", c.name, n)
		}
	}
}

func TestRemoveAndRetag(t *testing.T) {
	s := openImages(t, Limits{})
	one := load(t, s, "demo/a:1", smallImage(t, "one"))
	two := load(t, s, "demo/a:1", smallImage(t, "two"))
	if _, err := s.Prepare(t.Context(), one.Digest); err != nil {
		t.Errorf("the image that lost its tag cannot be started any more: %v", err)
	}
	if got, err := s.Find("demo/a:1", ""); err != nil || got.Digest != two.Digest {
		t.Errorf("got %v, %v, want the newer image", got, err)
	}
	if err := s.Remove("demo/a@" + one.Digest); err != nil {
		t.Fatal(err)
	}
	// Shared layers stay for the other one.
	if root, err := s.Prepare(t.Context(), two.Digest); err != nil {
		t.Error(err)
	} else if data, _ := os.ReadFile(root.Dir + "/hello"); string(data) != "two" {
		t.Errorf("got %q", data)
	}
	if err := s.Remove("demo/a:1"); err != nil {
		t.Fatal(err)
	}
	if n := blobsIn(t, s); n != 0 {
		t.Errorf("%d files stayed", n)
	}
	if err := s.Remove("demo/a:1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want %v", err, ErrNotFound)
	}
}

func TestPull(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(stdlog.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/demo/small:1")
	if err != nil {
		t.Fatal(err)
	}
	img := smallImage(t, "hello")
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	s := openImages(t, Limits{})
	im, err := s.Pull(t.Context(), ref.String())
	if err != nil {
		t.Fatal(err)
	}
	if im.Source != host || im.Ref != ref.String() || len(im.Blobs) != 4 {
		t.Errorf("got %+v", im)
	}
	if _, err := s.Prepare(t.Context(), im.Digest); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(t.Context(), host+"/no/such:1"); err == nil || !strings.Contains(err.Error(), "skein image load") {
		t.Errorf("got %v, want an error that says what to do", err)
	}
	// By digest from the registry, for a node that has no peer to ask.
	other := openImages(t, Limits{})
	if err := other.Ensure(t.Context(), im); err != nil {
		t.Error(err)
	}
	server.Close()
	if _, err := s.Pull(t.Context(), ref.String()); err == nil || !strings.Contains(err.Error(), host) {
		t.Errorf("got %v, want an error that names the registry", err)
	}
}

func TestFetchFrom(t *testing.T) {
	a := openImages(t, Limits{})
	im := load(t, a, "demo/small:1", smallImage(t, "hello"))
	fetched := 0
	honest := PeerFunc(func(_ context.Context, digest string) (io.ReadCloser, error) {
		fetched++
		f, _, err := a.Blob(digest)
		return f, err
	})
	b := openImages(t, Limits{})
	liar := PeerFunc(func(_ context.Context, digest string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(`{"schemaVersion":2}`)), nil
	})
	endless := PeerFunc(func(_ context.Context, digest string) (io.ReadCloser, error) {
		return io.NopCloser(zeroReader{}), nil
	})
	if err := b.FetchFrom(t.Context(), liar, im); !errors.Is(err, ErrDigest) {
		t.Errorf("liar: got %v, want %v", err, ErrDigest)
	}
	if err := b.FetchFrom(t.Context(), endless, im); !errors.Is(err, ErrTooLarge) {
		t.Errorf("endless: got %v, want %v", err, ErrTooLarge)
	}
	if n := blobsIn(t, b); n != 0 {
		t.Errorf("%d files stayed", n)
	}
	if err := b.Ensure(t.Context(), im, liar, honest); err != nil {
		t.Fatal(err)
	}
	if fetched != 4 {
		t.Errorf("fetched %d blobs, want 4", fetched)
	}
	if err := b.Ensure(t.Context(), im); err != nil || fetched != 4 {
		t.Errorf("second time: got %v, %d fetches", err, fetched)
	}
	if err := b.Ensure(t.Context(), cluster.Image{Ref: im.Ref}); err != nil {
		t.Errorf("by name only: %v", err)
	}
	if err := openImages(t, Limits{}).Ensure(t.Context(), im); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody to ask: got %v, want %v", err, ErrNotFound)
	}
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFull: a full tmpfs is an error that says so; what was there before still works.
func TestFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("skein", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skip("needs the right to mount:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := OpenImages(dir, Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	small := load(t, s, "demo/small:1", smallImage(t, "hello"))
	noise := make([]byte, 400<<10)
	for i := range noise {
		noise[i] = byte(i * i >> 7 * 31)
	}
	var big bytes.Buffer
	big.Write(ociArchive(t, "demo/big:1", image(t, v1.Config{}, tarOf(t, file("x", string(noise)+string(randomBytes(400<<10)))))))
	if _, err := s.Load(t.Context(), &big); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "remove images") {
		t.Errorf("load: got %v, want an error that says what to do", err)
	}
	// Fits compressed, does not unpacked.
	bomb := load(t, s, "demo/bomb:1", image(t, v1.Config{}, tarOf(t, file("x", strings.Repeat("x", 1<<20)))))
	if _, err := s.Prepare(t.Context(), bomb.Digest); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("prepare: got %v, want %v", err, unix.ENOSPC)
	}
	if _, err := s.Prepare(t.Context(), small.Digest); err != nil {
		t.Errorf("an image that was there before: %v", err)
	}
	if err := s.Remove("demo/bomb:1"); err != nil {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	valid := ociArchive(f, "demo/small:1", smallImage(f, "hello"))
	f.Add(valid)
	f.Add(valid[:len(valid)/2])
	f.Add(tarOf(f, file("manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["a"]}]`), file("c.json", "{}"), file("a", "")))
	s, err := OpenImages(f.TempDir(), Limits{Archive: 1 << 20, Entries: 50, Unpacked: 1 << 20, Files: 50}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		images, err := s.Load(t.Context(), bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, im := range images {
			if n, err := Normalize(im.Ref); err != nil || n != im.Ref {
				t.Errorf("accepted the name %q (%v)", im.Ref, err)
			}
			_, _ = s.Prepare(t.Context(), im.Digest)
			if err := s.Remove(im.Ref); err != nil && !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:` + strings.Repeat("a", 64) + `","annotations":{"org.opencontainers.image.ref.name":"a"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseIndex(data, Limits{}.withDefaults())
		if err != nil {
			return
		}
		for _, n := range list {
			if _, err := hexDigest(n.desc.Digest.String()); err != nil || n.ref == "" || strings.ContainsAny(n.ref, " \x00\n") {
				t.Errorf("accepted %+v", n)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	raw, err := smallImage(f, "x").RawManifest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		l := Limits{}.withDefaults()
		m, err := parseManifest(data, l)
		if err == nil && (len(m.Layers) > l.Layers || m.Config.Size > l.Document) {
			t.Errorf("accepted %+v", m)
		}
	})
}
