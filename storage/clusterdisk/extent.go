package clusterdisk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// How a disk is divided when it is formatted. One that is smaller has no room for images.
const (
	minDivided = 512 << 20 // bytes
	mostLedger = 3 << 30   // bytes: a bank then has more than the largest ledger
)

// divide is where the ledger's part of a disk of that size ends: images of containers have the rest, and what the
// LUN grows by.
func divide(size int64) int64 {
	if size < minDivided {
		return size
	}
	return min(max(size/4, MinSize), mostLedger) / Block * Block
}

// Extent is a piece of the disk, in bytes from its start. Both are multiples of Block.
type Extent struct {
	Off  int64 `json:"off"`
	Size int64 `json:"size"`
}

func (e Extent) end() int64 { return e.Off + e.Size }

// ErrNoRoom: no piece of the disk's part for images is large enough.
var ErrNoRoom = errors.New("the cluster disk has no room for it")

// Images is the part of the disk that images of containers are kept on; its size is 0 if there is none. Who has which
// piece of it is in the ledger. What is there is not sealed: readers know the digest of what they expect.
func (d *Disk) Images() Extent {
	end := d.ledgerEnd()
	return Extent{end, (d.dev.Size() - end) / Block * Block}
}

// Allot finds a piece for size bytes between those that are taken, the first that is large enough. Its error is
// ErrNoRoom.
func Allot(room Extent, taken []Extent, size int64) (Extent, error) {
	want := Extent{room.Off, up(size)}
	taken = slices.SortedFunc(slices.Values(taken), func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	free := room.Size
	for _, t := range taken {
		free -= t.Size
		if want.end() <= t.Off {
			break
		}
		want.Off = max(want.Off, up(t.end()))
	}
	if size < 0 || want.end() > room.end() {
		return Extent{}, fmt.Errorf("%w: %d bytes in one piece, and %d of %d are free", ErrNoRoom, size, max(free, 0), room.Size)
	}
	return want, nil
}

// chunk is how much is read and written at once, bytes.
const chunk = 1 << 20

// inImages is an error unless all of at is in the part for images.
func (d *Disk) inImages(at Extent, size int64) error {
	if room := d.Images(); at.Off < room.Off || at.end() > room.end() || at.Off%Block != 0 || at.Size%Block != 0 || size < 0 || size > at.Size {
		return fmt.Errorf("%d bytes at %d, which has %d, are not in the disk's part for images, which is %d bytes from %d", size, at.Off, at.Size, room.Size, room.Off)
	}
	return nil
}

// WriteImage writes size bytes of r and flushes them. r must end there.
func (d *Disk) WriteImage(ctx context.Context, at Extent, size int64, r io.Reader) error {
	if err := d.inImages(at, size); err != nil {
		return err
	}
	b := make([]byte, chunk)
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(chunk, size-done)
		if _, err := io.ReadFull(r, b[:n]); err != nil {
			return fmt.Errorf("of %d bytes, after %d: %w", size, done, err)
		}
		clear(b[n:up(n)])
		if _, err := d.dev.WriteAt(b[:up(n)], at.Off+done); err != nil {
			return err
		}
		done += n
	}
	if n, err := r.Read(b[:1]); n > 0 || err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("more than %d bytes were to be written: %w", size, err)
	}
	return d.dev.Flush()
}

// ReadImage reads size bytes. Whether they are those that were written is for the caller to check by their digest.
func (d *Disk) ReadImage(at Extent, size int64) (io.Reader, error) {
	if err := d.inImages(at, size); err != nil {
		return nil, err
	}
	return &imageReader{d: d, off: at.Off, left: size}, nil
}

type imageReader struct {
	d         *Disk
	off, left int64
	buf       []byte // read and not given yet
}

func (r *imageReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		if r.left == 0 {
			return 0, io.EOF
		}
		n := min(chunk, r.left)
		b, err := r.d.read(r.off, up(n))
		if err != nil {
			return 0, err
		}
		r.buf, r.off, r.left = b[:n], r.off+n, r.left-n
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}
