package initramfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/u-root/mkuimage/cpio"

	"github.com/skein-os/skein/initramfs/tree"
)

// sample fills a tree in the given order, which must not show.
func sample(t *testing.T, reverse bool) *tree.Tree {
	t.Helper()
	tr := tree.NewMerged()
	adds := []func() error{
		func() error { return tr.File("/bin/skeind", 0o755, bytes.Repeat([]byte("skein"), 100_000)) },
		func() error { return tr.Link("/init", "bin/skeind") },
		func() error { return tr.Dir("/tmp", 0o777|fs.ModeSticky) },
		func() error { return tr.Device("/dev/console", 0o600, 5, 1) },
		func() error { return tr.File("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n")) },
		func() error { return tr.File("/etc/empty", 0o600, nil) },
	}
	if reverse {
		slices.Reverse(adds)
	}
	for _, add := range adds {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func TestArchiveSameBytes(t *testing.T) {
	var a, b bytes.Buffer
	if err := errors.Join(writeArchive(&a, sample(t, false)), writeArchive(&b, sample(t, true))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of adding files shows in the archive")
	}
}

func TestArchiveContent(t *testing.T) {
	var b bytes.Buffer
	if err := writeArchive(&b, sample(t, false)); err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(b.Bytes()))})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]cpio.Record{}
	for _, r := range records {
		if r.MTime != 0 || r.UID != 0 || r.GID != 0 || r.Ino != 0 {
			t.Errorf("%s has a time, an owner or an inode: %s", r.Name, r.Info)
		}
		got[r.Name] = r
	}
	for name, mode := range map[string]uint64{
		"usr/bin/skeind": cpio.S_IFREG | 0o755, "init": cpio.S_IFLNK | 0o777, "bin": cpio.S_IFLNK | 0o777, "tmp": cpio.S_IFDIR | 0o1777,
		"dev/console": cpio.S_IFCHR | 0o600, "etc": cpio.S_IFDIR | 0o755, "etc/empty": cpio.S_IFREG | 0o600,
	} {
		if r, ok := got[name]; !ok || r.Mode != mode {
			t.Errorf("%s: got mode %o (there: %v), want %o", name, r.Mode, ok, mode)
		}
	}
	if r := got["dev/console"]; r.Rmajor != 5 || r.Rminor != 1 {
		t.Errorf("dev/console: got %d:%d, want 5:1", r.Rmajor, r.Rminor)
	}
	hosts, err := io.ReadAll(io.NewSectionReader(got["etc/hosts"], 0, int64(got["etc/hosts"].FileSize)))
	if err != nil || string(hosts) != "127.0.0.1 localhost\n" {
		t.Errorf("etc/hosts: got %q, %v", hosts, err)
	}
}

func TestCompress(t *testing.T) {
	data := bytes.Repeat([]byte("the same again, "), 1<<20) // over one lz4 block of 8 MiB
	tests := map[string]struct {
		magic string
		open  func(io.Reader) (io.Reader, error)
	}{
		// The kernel tells formats by these first bytes; the usual lz4 frame (04224d18) it does not know.
		"lz4": {"\x02\x21\x4c\x18", func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }},
		"zst": {"\x28\xb5\x2f\xfd", func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) }},
	}
	for kind, test := range tests {
		var a, b bytes.Buffer
		if err := errors.Join(compress(&a, kind, data), compress(&b, kind, data)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Bytes(), b.Bytes()) {
			t.Errorf("%s: not the same bytes twice", kind)
		}
		if !bytes.HasPrefix(a.Bytes(), []byte(test.magic)) {
			t.Errorf("%s: begins with %x, want %x", kind, a.Bytes()[:4], test.magic)
		}
		r, err := test.open(&a)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes back, %v; want %d", kind, len(got), err, len(data))
		}
	}
	if err := compress(io.Discard, "rar", nil); err == nil {
		t.Error("rar: want an error")
	}
}
