package disk

import (
	"encoding/binary"
	"errors"
	"io"
)

// WriteQCOW2 writes a disk in QEMU's format of that name, version 3 (docs/interop/qcow2.txt), without the clusters that
// are all zero.
func WriteQCOW2(w io.Writer, raw []byte) error {
	const (
		bits    = 16
		cluster = 1 << bits
		entries = cluster / 8 // of an L2 table
		copied  = 1 << 63     // there is one reference
		header  = 104
	)
	if len(raw)%sectorSize != 0 || len(raw) == 0 {
		return errors.New("a disk has whole sectors")
	}
	be := binary.BigEndian
	count := (len(raw) + cluster - 1) / cluster
	data := func(i int) []byte { return raw[i*cluster : min((i+1)*cluster, len(raw))] }
	used := 0
	for i := range count {
		if !zero(data(i)) {
			used++
		}
	}
	tables := (count + entries - 1) / entries
	if tables > entries {
		return errors.New("a disk of more than 4 TiB")
	}
	// header, table of the reference counts' blocks, those blocks, L1, the L2 tables, data
	blocks := 1
	for (3+blocks+tables+used+cluster/2-1)/(cluster/2) > blocks {
		blocks++
	}
	if blocks > entries {
		return errors.New("a disk with more data than one table of reference counts tells of")
	}
	l1 := 2 + blocks
	first := l1 + 1 + tables
	total := first + used
	meta := make([]byte, first*cluster)
	copy(meta, "QFI\xfb")
	be.PutUint32(meta[4:], 3)
	be.PutUint32(meta[20:], bits)
	be.PutUint64(meta[24:], uint64(len(raw)))
	be.PutUint32(meta[36:], uint32(tables))
	be.PutUint64(meta[40:], uint64(l1*cluster))
	be.PutUint64(meta[48:], cluster) // the table of reference counts
	be.PutUint32(meta[56:], 1)
	be.PutUint32(meta[96:], 4) // a reference count has 2^4 bits
	be.PutUint32(meta[100:], header)
	for b := range blocks {
		be.PutUint64(meta[cluster+8*b:], uint64((2+b)*cluster))
	}
	for c := range total {
		be.PutUint16(meta[2*cluster+2*c:], 1)
	}
	for t := range tables {
		be.PutUint64(meta[l1*cluster+8*t:], uint64((l1+1+t)*cluster)|copied)
	}
	next := first
	for i := range count {
		if !zero(data(i)) {
			be.PutUint64(meta[(l1+1)*cluster+8*i:], uint64(next*cluster)|copied)
			next++
		}
	}
	if _, err := w.Write(meta); err != nil {
		return err
	}
	for i := range count {
		d := data(i)
		if zero(d) {
			continue
		}
		if _, err := w.Write(d); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, cluster-len(d))); err != nil {
			return err
		}
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
