package container

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// hexDigest checks that a digest is "sha256:" and 64 lower-case hex digits and returns these. It is what
// keeps a stranger's string from becoming a path.
func hexDigest(digest string) (string, error) {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if ok && len(h) == 64 && strings.Trim(h, "0123456789abcdef") == "" {
		return h, nil
	}
	return "", fmt.Errorf("digest %.80q: only sha256: and 64 lower-case hex digits are accepted", digest)
}

// Blob opens a blob of the store. The caller closes it.
func (s *Images) Blob(digest string) (io.ReadSeekCloser, int64, error) {
	h, err := hexDigest(digest)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.path("blobs/sha256", h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("blob %s: %w on this node", digest, ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("blob %s: %w", digest, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("blob %s: %w", digest, err)
	}
	return f, st.Size(), nil
}

// HasBlob tells whether the blob is in the store.
func (s *Images) HasBlob(digest string) bool {
	h, err := hexDigest(digest)
	if err != nil {
		return false
	}
	_, err = os.Stat(s.path("blobs/sha256", h))
	return err == nil
}

// document reads a small blob whole.
func (s *Images) document(digest string) ([]byte, error) {
	f, size, err := s.Blob(digest)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > s.limits.Document {
		return nil, fmt.Errorf("blob %s has %d bytes, a manifest or config at most %d: %w", digest, size, s.limits.Document, ErrTooLarge)
	}
	return io.ReadAll(f)
}

// put writes a blob of at most limit bytes. With an empty digest it takes whatever comes and names it.
// On any error nothing is left behind.
func (s *Images) put(ctx context.Context, digest string, limit int64, r io.Reader) (got string, size int64, err error) {
	if digest != "" {
		if _, err := hexDigest(digest); err != nil {
			return "", 0, err
		}
		if s.HasBlob(digest) {
			// The reader may be in the middle of a stream, so take what is there all the same.
			n, err := io.Copy(io.Discard, io.LimitReader(&ctxReader{ctx, r}, limit+1))
			if err == nil && n > limit {
				err = fmt.Errorf("blob %s: more than the %d bytes allowed: %w", digest, limit, ErrTooLarge)
			}
			return digest, n, err
		}
	}
	f, err := os.CreateTemp(s.path("ingest"), "")
	name := "blob " + cmp.Or(digest, "of a layer")
	if err != nil {
		return "", 0, fmt.Errorf("store %s: %w", name, full(s.dir, err))
	}
	defer func() {
		// After the rename there is nothing of this name any more.
		if rmErr := os.Remove(f.Name()); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}()
	defer f.Close()
	sum := sha256.New()
	size, err = io.CopyBuffer(io.MultiWriter(f, sum), io.LimitReader(&roomReader{r: &ctxReader{ctx, r}, s: s}, limit+1), make([]byte, 128<<10))
	if err != nil {
		return "", 0, fmt.Errorf("store %s after %d bytes: %w", name, size, full(s.dir, err))
	}
	if size > limit {
		return "", 0, fmt.Errorf("store %s: more than the %d bytes allowed: %w", name, limit, ErrTooLarge)
	}
	h := hex.EncodeToString(sum.Sum(nil))
	if got = "sha256:" + h; digest != "" && got != digest {
		return "", 0, fmt.Errorf("store blob %s: %d bytes came that have %s: %w", digest, size, got, ErrDigest)
	}
	if err := f.Close(); err != nil {
		return "", 0, fmt.Errorf("store blob %s: %w", got, full(s.dir, err))
	}
	if err := os.Rename(f.Name(), s.path("blobs/sha256", h)); err != nil {
		return "", 0, fmt.Errorf("store blob %s: %w", got, full(s.dir, err))
	}
	return got, size, nil
}

func (s *Images) putBytes(ctx context.Context, data []byte) (string, error) {
	d, _, err := s.put(ctx, "", int64(len(data)), bytes.NewReader(data))
	return d, err
}

// ctxReader lets a long copy end with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
