package container

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	layers "github.com/containerd/containerd/v2/pkg/archive"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// Root is an unpacked image. Nobody writes into Dir.
type Root struct {
	Digest string    // of the manifest
	Dir    string    // the root file system
	Config v1.Config // what the image says about how to run it
}

// unpack is one unpacking in progress, which others may wait for.
type unpack struct {
	done chan struct{}
	root Root
	err  error
}

// Prepare unpacks an image that is in the store, or finds it unpacked. Whoever expects to start an
// instance of it calls this beforehand: then a start has nothing to wait for.
func (s *Images) Prepare(ctx context.Context, digest string) (Root, error) {
	h, err := hexDigest(digest)
	if err != nil {
		return Root{}, err
	}
	for {
		if root, err := s.prepared(digest, h); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return root, err
		}
		s.mu.Lock()
		u, busy := s.unpacks[digest]
		if !busy {
			u = &unpack{done: make(chan struct{})}
			s.unpacks[digest] = u
		}
		s.mu.Unlock()
		if busy {
			select {
			case <-u.done:
			case <-ctx.Done():
				return Root{}, ctx.Err()
			}
			// If the other one gave up because its caller did, it is our turn.
			if errors.Is(u.err, context.Canceled) || errors.Is(u.err, context.DeadlineExceeded) {
				continue
			}
			return u.root, u.err
		}
		// Whoever was at it between our look and our turn may have finished.
		if u.root, u.err = s.prepared(digest, h); errors.Is(u.err, fs.ErrNotExist) {
			if u.err = s.unpackTo(ctx, digest, s.path("roots", h)); u.err == nil {
				u.root, u.err = s.prepared(digest, h)
			}
		}
		s.mu.Lock()
		delete(s.unpacks, digest)
		if s.garbage {
			if err := s.sweep(); err != nil {
				s.log.Warn("image store: could not remove garbage", "err", err)
			}
		}
		s.mu.Unlock()
		close(u.done)
		return u.root, u.err
	}
}

func (s *Images) prepared(digest, h string) (Root, error) {
	data, err := os.ReadFile(s.path("roots", h, "config.json"))
	if err != nil {
		return Root{}, err
	}
	root := Root{Digest: digest, Dir: s.path("roots", h, "rootfs")}
	if err := json.Unmarshal(data, &root.Config); err != nil {
		return Root{}, fmt.Errorf("unpacked image %s: %w", digest, err)
	}
	return root, nil
}

// unpackTo makes dir, with rootfs and config.json in it, whole or not at all.
func (s *Images) unpackTo(ctx context.Context, digest, dir string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("unpack image %s: %w", digest, full(s.dir, err))
		}
	}()
	data, err := s.document(digest)
	if err != nil {
		return err
	}
	m, err := parseManifest(data, s.limits)
	if err != nil {
		return err
	}
	config, err := s.config(m)
	if err != nil {
		return err
	}
	part := dir + ".part"
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	// The directories above are 0700, so that setuid files of images are out of reach on the node; the
	// root itself is what the container sees as "/" and must be open to its users.
	if err := os.MkdirAll(part, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(part+"/rootfs", 0o755); err != nil {
		return err
	}
	b := budget{bytes: s.limits.Unpacked, files: s.limits.Files, made: map[string]bool{}}
	for i, l := range m.Layers {
		if err := s.applyLayer(ctx, l.Digest.String(), part+"/rootfs", &b); err != nil {
			return fmt.Errorf("layer %d of %d, %s: %w", i+1, len(m.Layers), l.Digest, err)
		}
	}
	data, err = json.Marshal(config.Config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(part+"/config.json", data, 0o600); err != nil {
		return err
	}
	return os.Rename(part, dir)
}

func (s *Images) applyLayer(ctx context.Context, digest, root string, b *budget) error {
	f, _, err := s.Blob(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := decompress(f)
	if err != nil {
		return err
	}
	defer r.Close()
	return applyTar(ctx, root, &roomReader{r: r, s: s}, b)
}

// budget is what is left of the limits of one image.
type budget struct {
	bytes int64
	files int
	made  map[string]bool // directories that entries have stated or implied
}

// entry takes one entry, and the directories above it that no other one has named: one entry may imply two thousand, and
// each costs an inode.
func (b *budget) entry(h *tar.Header) error {
	if h.Typeflag == tar.TypeDir {
		b.made[path.Clean("/"+h.Name)] = true
	}
	b.files--
	for dir := path.Dir(path.Clean("/" + h.Name)); dir != "/" && !b.made[dir]; dir = path.Dir(dir) {
		b.made[dir] = true
		b.files--
	}
	if b.files < 0 {
		return fmt.Errorf("too many files: %w", ErrTooLarge)
	}
	return nil
}

// applyTar applies one layer. Paths and links are kept inside root by archive.Apply; device nodes are
// left out (a container gets its own /dev), and the budget ends what would fill the memory.
func applyTar(ctx context.Context, root string, r io.Reader, b *budget) error {
	// Headers and padding come on top of the files: 4 KiB for each is more than any real layer has.
	limited := &limitReader{r: r, left: b.bytes + 4096*int64(b.files)}
	_, err := layers.Apply(ctx, root, limited, layers.WithFilter(func(h *tar.Header) (bool, error) {
		if err := b.entry(h); err != nil {
			return false, err
		}
		if h.Size < 0 || h.Size > b.bytes {
			return false, fmt.Errorf("too many bytes when unpacked: %w", ErrTooLarge)
		}
		switch h.Typeflag {
		case tar.TypeReg: // the reader turns the older TypeRegA into it
			b.bytes -= h.Size
		case tar.TypeBlock, tar.TypeChar:
			return false, nil
		}
		// File capabilities and the overlay's own marks mean nothing good in a stranger's layer.
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") && !strings.HasPrefix(k, "SCHILY.xattr.user.") {
				delete(h.PAXRecords, k)
			}
		}
		return true, nil
	}))
	if err != nil {
		return err
	}
	// Apply stops at the end mark; what follows is not looked at.
	return nil
}

// decompress finds out by the first bytes how a layer is packed: media types lie too often.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// A frame may ask for a window of gigabytes; 64 MiB is more than any tool writes by default.
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return nil, err
		}
		return zr.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// limitReader fails, unlike io.LimitReader, when the limit is reached: a truncated layer must not look
// like a whole one.
type limitReader struct {
	r    io.Reader
	left int64
}

func (l *limitReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("too many bytes when decompressed: %w", ErrTooLarge)
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	return n, err
}
