package container

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// bomb is much that is little when packed: a file of n zeros.
func bomb(t testing.TB, pack func(io.Writer) io.WriteCloser, n int64) []byte {
	t.Helper()
	var out bytes.Buffer
	w := pack(&out)
	if _, err := w.Write(tarOf(t, file("zeros", strings.Repeat("\x00", int(n))))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBombs: what grows when it is unpacked ends at the limit, and leaves nothing.
func TestBombs(t *testing.T) {
	packs := map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) },
		"zstd": func(w io.Writer) io.WriteCloser {
			zw, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return zw
		},
	}
	for name, pack := range packs {
		packed := bomb(t, pack, 16<<20)
		if len(packed) > 100<<10 {
			t.Fatalf("%s: %d bytes is no bomb", name, len(packed))
		}
		dir := t.TempDir()
		r, err := decompress(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		err = applyTar(t.Context(), dir, r, &budget{bytes: 1 << 20, files: 10, made: map[string]bool{}})
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, want %v", name, err, ErrTooLarge)
		}
		if st, err := os.Stat(filepath.Join(dir, "zeros")); err == nil && st.Size() > 0 {
			t.Errorf("%s: %d bytes were written", name, st.Size())
		}
		// Data that belongs to no file, after entries that state no size.
		r, err = decompress(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, &limitReader{r: r, left: 1 << 20})
		if !errors.Is(err, ErrTooLarge) || n > 1<<20 {
			t.Errorf("%s: got %d bytes, %v", name, n, err)
		}
	}
	// A frame that asks for a window of more memory than any tool's.
	var out bytes.Buffer
	zw, err := zstd.NewWriter(&out, zstd.WithWindowSize(128<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(zw, io.LimitReader(zeroReader{}, 200<<20)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := decompress(&out)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err == nil {
		t.Error("a window of 128 MiB was given")
	}
}

// TestReserve: images leave room for the rest of the node's state.
func TestReserve(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("skein", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skip("needs the right to mount:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := OpenImages(dir, Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	up, err := s.NewUpload(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	for piece := randomBytes(64 << 10); err == nil; {
		_, err = up.Write(piece)
	}
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "kept for the node") {
		t.Errorf("got %v, want an error that says what the rest is for", err)
	}
	// Another part of the node can still write.
	if err := os.WriteFile(filepath.Join(dir, "ledger"), make([]byte, 64<<10), 0o600); err != nil {
		t.Error(err)
	}
	if err := up.Cancel(); err != nil {
		t.Error(err)
	}
	// What fits packed and not unpacked.
	im := load(t, s, "bomb:1", image(t, v1.Config{}, bomb(t, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, 64<<20)))
	if _, err := s.Prepare(t.Context(), im.Digest); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want %v", err, unix.ENOSPC)
	}
	if err := os.WriteFile(filepath.Join(dir, "ledger2"), make([]byte, 64<<10), 0o600); err != nil {
		t.Error(err)
	}
}

// FuzzLayer: whatever a layer holds, nothing is written outside of its root, no device is made, and the limits hold.
func FuzzLayer(f *testing.F) {
	f.Add(tarOf(f, dir("a/"), file("a/b", "x"), symlink("l", "/"), file("l/x", "y"), file("a/.wh.b", "")))
	f.Add(tarOf(f, symlink("l", "../.."), file("l/x", "y"), file(".wh..wh..opq", "")))
	f.Add(bomb(f, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }, 1<<10))
	f.Fuzz(func(t *testing.T, data []byte) {
		above := t.TempDir()
		root := filepath.Join(above, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		r, err := decompress(bytes.NewReader(data))
		if err != nil {
			return
		}
		_ = applyTar(t.Context(), root, r, &budget{bytes: 64 << 10, files: 50, made: map[string]bool{}})
		if err := r.Close(); err != nil {
			t.Log(err)
		}
		if list, err := os.ReadDir(above); err != nil || len(list) != 1 {
			t.Fatalf("beside the root: %v, %v", list, err)
		}
		files, size := 0, int64(0)
		if err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			files++
			if d.Type()&fs.ModeDevice != 0 {
				t.Errorf("%s is a device", p)
			}
			st, err := d.Info()
			if err == nil && st.Mode().IsRegular() {
				size += st.Size()
			}
			return nil
		}); err != nil {
			t.Log(err)
		}
		if files > 52 || size > 64<<10*51 {
			t.Errorf("%d files of %d bytes", files, size)
		}
	})
}

// FuzzManifestType: it never takes one kind for the other.
func FuzzManifestType(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
	s, err := OpenImages(f.TempDir(), Limits{}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, err := ManifestType(data)
		if err != nil {
			return
		}
		if !strings.HasPrefix(kind, "application/vnd.") {
			t.Errorf("got %q", kind)
		}
		digest, err := s.putBytes(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		if im, err := s.Record(t.Context(), "a:1", digest, SourcePush, nil); err == nil && (im.Top() != digest || im.Blobs[0] != digest) {
			t.Errorf("got %+v", im)
		}
	})
}
