package container

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Images leave a part of the file system free, 1/reservePart of it and no more than reserveBytes and reserveFiles: the rest
// of the node's state is on it too, and a node whose ledger cannot write is worse than one without an image.
const (
	reservePart  = 20
	reserveBytes = 128 << 20
	reserveFiles = 4096
)

// roomEvery is how many bytes are written between two looks.
const roomEvery = 256 << 10

// room tells whether there is more than the reserve; unix.ENOSPC if not.
func (s *Images) room() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return fmt.Errorf("room for images: %w", err)
	}
	// A file system that states no size has none.
	if least := min(st.Blocks/reservePart, uint64(reserveBytes/st.Bsize)); st.Blocks > 0 && st.Bavail < least {
		return full(s.dir, fmt.Errorf("what is left of it, %d KB, is kept for the node: %w", st.Bavail*uint64(st.Bsize)>>10, unix.ENOSPC))
	}
	if st.Files > 0 && st.Ffree < min(st.Files/reservePart, reserveFiles) {
		return full(s.dir, fmt.Errorf("the %d files that it still takes are kept for the node: %w", st.Ffree, unix.ENOSPC))
	}
	return nil
}

// roomReader ends what is written from it when only the reserve is left.
type roomReader struct {
	r    io.Reader
	s    *Images
	left int64 // bytes until the next look
}

func (r *roomReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		if err := r.s.room(); err != nil {
			return 0, err
		}
		r.left = roomEvery
	}
	n, err := r.r.Read(p)
	r.left -= int64(n)
	return n, err
}
