package gfs2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// superblockAt is where GFS2 has its superblock, bytes, and superblockLen what is read of it
// (include/uapi/linux/gfs2_ondisk.h: GFS2_SB_ADDR, struct gfs2_sb).
const (
	superblockAt  = 64 << 10
	superblockLen = 512
	magic         = 0x01161970
)

// ErrNone means that there is no GFS2 on the device.
var ErrNone = errors.New("no GFS2 file system there")

// superblock is what a mount goes by.
type superblock struct {
	protocol string // lock_dlm, or lock_nolock for one node alone
	table    string // CLUSTER:NAME
}

// readSuperblock reads it from a device.
func readSuperblock(r io.ReaderAt) (superblock, error) {
	b := make([]byte, superblockLen)
	if _, err := r.ReadAt(b, superblockAt); err != nil && !errors.Is(err, io.EOF) {
		return superblock{}, err
	}
	return parseSuperblock(b)
}

func parseSuperblock(b []byte) (superblock, error) {
	if len(b) < superblockLen || binary.BigEndian.Uint32(b) != magic || binary.BigEndian.Uint32(b[4:]) != 1 {
		return superblock{}, ErrNone
	}
	s := superblock{protocol: text(b[96:160]), table: text(b[160:224])}
	if s.protocol == "" || s.table == "" {
		return superblock{}, fmt.Errorf("damaged superblock: no lock protocol or no lock table")
	}
	return s, nil
}

// text is a string up to its NUL; nothing if there are other bytes in it than a name has.
func text(b []byte) string {
	b, _, found := bytes.Cut(b, []byte{0})
	if !found {
		return ""
	}
	for _, c := range b {
		if c < ' ' || c > '~' {
			return ""
		}
	}
	return string(b)
}
