package clusterdisk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Block is the unit of all reading and writing, bytes: the largest sector that disks have.
const Block = 4096

// Device is the disk. Offsets and lengths are multiples of Block. A write that returned may be lost with the
// disk's power until Flush has returned, and of several any may be.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Flush makes what was written, by anybody, outlast the loss of power.
	Flush() error
	Size() int64 // bytes
	// WWN is the disk's worldwide name, "" if it has none.
	WWN() string
}

// ErrFenced: the disk refused a write because this node's key was taken away. Whoever gets it stands down: another
// node has taken the disk.
var ErrFenced = errors.New("this node was shut off from the cluster disk")

// file is a block device, or a plain file in tests and on machines without a SAN.
type file struct {
	f    *os.File
	size int64
	wwn  string
}

// OpenDevice opens a block device past the page cache: what another node has written is seen, and what is written
// is on its way to the disk.
func OpenDevice(path, wwn string) (Device, io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) { // a file system without it, as tmpfs was
		f, err = os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open the cluster disk: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("size of the cluster disk %s: %w", path, err), f.Close())
	}
	return &file{f, size / Block * Block, wwn}, f, nil
}

func (d *file) Size() int64 { return d.size }
func (d *file) WWN() string { return d.wwn }

func (d *file) ReadAt(p []byte, off int64) (int, error) {
	buf := aligned(len(p))
	n, err := d.f.ReadAt(buf, off)
	copy(p, buf[:n])
	if err != nil {
		return n, fmt.Errorf("read the cluster disk %s at %d: %w", d.f.Name(), off, err)
	}
	return n, nil
}

func (d *file) WriteAt(p []byte, off int64) (int, error) {
	buf := aligned(len(p))
	copy(buf, p)
	n, err := d.f.WriteAt(buf, off)
	return n, d.failed("write", off, err)
}

func (d *file) Flush() error { return d.failed("flush", 0, unix.Fdatasync(int(d.f.Fd()))) }

// failed names what happened. EBADE is what the kernel makes of a reservation conflict.
func (d *file) failed(what string, off int64, err error) error {
	if errors.Is(err, unix.EBADE) {
		return fmt.Errorf("%s the cluster disk %s at %d: %w (reservation conflict)", what, d.f.Name(), off, ErrFenced)
	}
	if err != nil {
		return fmt.Errorf("%s the cluster disk %s at %d: %w", what, d.f.Name(), off, err)
	}
	return nil
}

// aligned is memory at a multiple of Block, as O_DIRECT wants it.
func aligned(n int) []byte {
	raw := make([]byte, n+Block)
	at := int(-uintptr(unsafe.Pointer(&raw[0])) & (Block - 1))
	return raw[at : at+n : at+n]
}

// up is n rounded up to whole blocks.
func up(n int64) int64 { return (n + Block - 1) / Block * Block }
