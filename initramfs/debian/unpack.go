package debian

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// Limits of what is unpacked: a kernel with all its modules is 400 MB in 4,000 files.
const (
	maxUnpacked = 4 << 30
	maxEntries  = 200_000
)

// maxXZDict bounds the memory that a package's xz header can ask for; Debian's largest is 64 MiB.
const maxXZDict = 128 << 20

// Unpack writes the files of a .deb under dir, which must exist and should be empty. Owners and times
// are not kept. Names and links that lead out of dir are an error; so are devices, which no package of
// ours has.
func Unpack(deb io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	data, err := member(deb, "data.tar")
	if err != nil {
		return err
	}
	defer data.Close()
	return untar(data, root)
}

// member finds the member whose name is stem with an optional compression suffix, and decompresses it.
func member(deb io.Reader, stem string) (io.ReadCloser, error) {
	ar, err := newArReader(deb)
	if err != nil {
		return nil, err
	}
	for {
		name, body, err := ar.next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("not a Debian package: no %s in it", stem)
		}
		if err != nil {
			return nil, err
		}
		if suffix, ok := strings.CutPrefix(name, stem); ok {
			return decompress(body, suffix)
		}
	}
}

// decompress by file name suffix: "", .gz, .xz or .zst.
func decompress(r io.Reader, suffix string) (io.ReadCloser, error) {
	switch suffix {
	case "":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		x, err := xz.NewReader(bufio.NewReaderSize(r, 1<<16), maxXZDict)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxMemory(maxUnpacked), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	default:
		return nil, fmt.Errorf("unknown compression %q of a package's contents", suffix)
	}
}

// Decompress undoes the compression that the suffix of name tells: .gz, .xz, .zst; other names are
// passed through.
func Decompress(r io.Reader, name string) (io.ReadCloser, error) {
	switch ext := path.Ext(name); ext {
	case ".gz", ".xz", ".zst":
		return decompress(r, ext)
	default:
		return io.NopCloser(r), nil
	}
}

// untar relies on os.Root for containment: it refuses any path that leaves the root, through ".." or
// through a link that was unpacked before, whatever the order of entries.
func untar(r io.Reader, root *os.Root) error {
	tr := tar.NewReader(r)
	var total int64
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the package's contents: %w", err)
		}
		if n > maxEntries {
			return fmt.Errorf("package has over %d files", maxEntries)
		}
		name := filepath.Clean(strings.TrimPrefix(h.Name, "/"))
		if name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return fmt.Errorf("package has a file outside its root: %q", h.Name)
		}
		if h.Size < 0 || total+h.Size > maxUnpacked {
			return fmt.Errorf("package unpacks to over %d bytes", int64(maxUnpacked))
		}
		total += h.Size
		if err := untarEntry(tr, h, root, name); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

func untarEntry(tr *tar.Reader, h *tar.Header, root *os.Root, name string) error {
	perm := os.FileMode(h.Mode).Perm()
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, perm|0o700)
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		// Owner-readable whatever the package says: the build reads it again.
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm|0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(f, tr); err != nil {
			f.Close()
			return err
		}
		return f.Close()
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(filepath.Clean(strings.TrimPrefix(h.Linkname, "/")), name)
	default:
		return fmt.Errorf("unexpected kind of file %q", h.Typeflag)
	}
}
