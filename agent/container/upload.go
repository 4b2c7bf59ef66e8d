package container

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"time"
)

// HoldTime is how long a blob stays that came before the image that needs it. Who pushes an image sends its blobs first
// and its manifest last.
const HoldTime = time.Hour

// Upload is a blob that arrives in pieces, perhaps over several connections. It is not safe for concurrent use.
type Upload struct {
	s     *Images
	f     *os.File
	sum   hash.Hash
	size  int64
	limit int64
	left  int64 // bytes until the next look for room
}

// NewUpload begins a blob of at most limit bytes. It must end with Commit or Cancel.
func (s *Images) NewUpload(limit int64) (*Upload, error) {
	f, err := os.CreateTemp(s.path("ingest"), "")
	if err != nil {
		return nil, fmt.Errorf("begin an upload: %w", full(s.dir, err))
	}
	return &Upload{s: s, f: f, sum: sha256.New(), limit: limit}, nil
}

// Size is how many bytes have come.
func (u *Upload) Size() int64 { return u.size }

// Write appends. What was written before an error stays, and Size tells how much that is.
func (u *Upload) Write(p []byte) (int, error) {
	if int64(len(p)) > u.limit-u.size {
		return 0, fmt.Errorf("upload: more than the %d bytes allowed: %w", u.limit, ErrTooLarge)
	}
	if u.left <= 0 {
		if err := u.s.room(); err != nil {
			return 0, fmt.Errorf("upload after %d bytes: %w", u.size, err)
		}
		u.left = roomEvery
	}
	n, err := u.f.Write(p)
	u.left -= int64(n)
	u.sum.Write(p[:n])
	u.size += int64(n)
	if err != nil {
		err = fmt.Errorf("upload after %d bytes: %w", u.size, full(u.s.dir, err))
	}
	return n, err
}

// Commit puts the blob into the store if it is what digest says, ErrDigest if not. Either way the upload is over. The blob
// is held for HoldTime.
func (u *Upload) Commit(digest string) error {
	h, err := hexDigest(digest)
	if err == nil && hex.EncodeToString(u.sum.Sum(nil)) != h {
		err = fmt.Errorf("blob %s: %d bytes came that have sha256:%x: %w", digest, u.size, u.sum.Sum(nil), ErrDigest)
	}
	if err != nil {
		return errors.Join(err, u.Cancel())
	}
	if err := u.f.Close(); err != nil {
		return errors.Join(fmt.Errorf("store blob %s: %w", digest, full(u.s.dir, err)), os.Remove(u.f.Name()))
	}
	// Held first: a sweep that comes in between must not take it for garbage.
	u.s.hold(h)
	if err := os.Rename(u.f.Name(), u.s.path("blobs/sha256", h)); err != nil {
		return errors.Join(fmt.Errorf("store blob %s: %w", digest, err), os.Remove(u.f.Name()))
	}
	return nil
}

// Cancel forgets what has come.
func (u *Upload) Cancel() error {
	err := os.Remove(u.f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(u.f.Close(), err)
}

func (s *Images) hold(h string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[h] = time.Now().Add(HoldTime)
	s.garbage = true // so that it goes if no image comes for it
}

// Hold keeps a blob that is in the store for HoldTime: somebody was told that it need not be sent. It returns the
// blob's size, ErrNotFound if it is not here.
func (s *Images) Hold(digest string) (size int64, err error) {
	h, err := hexDigest(digest)
	if err != nil {
		return 0, err
	}
	s.mu.Lock() // a sweep holds it too: the blob is seen and held, or gone
	defer s.mu.Unlock()
	st, err := os.Stat(s.path("blobs/sha256", h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s: %w on this node", digest, ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("blob %s: %w", digest, err)
	}
	s.held[h] = time.Now().Add(HoldTime)
	s.garbage = true
	return st.Size(), nil
}

// Tidy removes blobs that nothing needs and nobody holds any more. It is to be called now and then.
func (s *Images) Tidy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.garbage {
		return nil
	}
	err := s.sweep()
	s.garbage = s.garbage || len(s.held) > 0
	return err
}

// Bring gets a blob of at most limit bytes if it is not here, and holds it for HoldTime.
func (s *Images) Bring(ctx context.Context, digest string, limit int64, fetch Fetch) error {
	_, err := s.Hold(digest)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	s.begin() // no sweep between its coming and its being held
	defer s.end(false)
	rc, err := fetch(ctx, digest)
	if err != nil {
		return err
	}
	_, _, err = s.put(ctx, digest, limit, rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		return err
	}
	_, err = s.Hold(digest)
	return err
}
