package filesystem

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// Kind is what is on a device.
type Kind string

// Kinds. Those of volumes are Ext4 and XFS; Foreign stands for bytes that nobody knows.
const (
	Empty     Kind = "empty"
	Ext4      Kind = "ext4"
	XFS       Kind = "xfs"
	Ext23     Kind = "ext2 or ext3"
	GFS2      Kind = "gfs2"
	Btrfs     Kind = "btrfs"
	LVM       Kind = "LVM physical volume"
	MD        Kind = "md RAID member"
	LUKS      Kind = "LUKS"
	Bcache    Kind = "bcache"
	ZFS       Kind = "ZFS member"
	Swap      Kind = "swap"
	GPT       Kind = "GPT partition table"
	MBR       Kind = "MBR partition table or boot sector"
	OCFS2     Kind = "ocfs2"
	VMFS      Kind = "VMFS"
	NTFS      Kind = "NTFS"
	BlueStore Kind = "Ceph BlueStore"
	DRBD      Kind = "DRBD"
	Foreign   Kind = "data that is not known"
)

// Content is what Identify found.
type Content struct {
	Kind  Kind
	UUID  string // of Ext4 and XFS, with dashes
	Label string // of Ext4 and XFS
	// Size of the file system in bytes, of Ext4 and XFS.
	Size int64
	// Dirty: ext4's superblock says that it was not unmounted in order, or that its journal has to be replayed.
	Dirty bool
	// Errors: ext4's superblock says that the kernel found errors.
	Errors bool
}

// String names it for people.
func (c Content) String() string {
	if c.Label != "" {
		return fmt.Sprintf("%s %q", c.Kind, c.Label)
	}
	if c.UUID != "" {
		return fmt.Sprintf("%s %s", c.Kind, c.UUID)
	}
	return string(c.Kind)
}

const (
	headSize = 1 << 20   // where signatures at the beginning are
	tailSize = 512 << 10 // and at the end: backup GPT, md 0.90 and 1.0, ZFS labels 2 and 3, DRBD
)

// Identify tells what is on a device of this many bytes. It reads the first MiB and the last half.
func Identify(r io.ReaderAt, size int64) (Content, error) {
	head, err := area(r, 0, min(size, headSize))
	if err != nil {
		return Content{}, err
	}
	at := max(0, size-tailSize)
	tail, err := area(r, at, size-at)
	if err != nil {
		return Content{}, err
	}
	return identify(head, tail, size), nil
}

func area(r io.ReaderAt, at, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := r.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("read %d bytes at %d: %w", n, at, err)
	}
	return b, nil
}

// signature is bytes at a place that only one kind has there.
type signature struct {
	at    int
	magic string
	kind  Kind
}

// Those whose containers hold others come first: an LVM member whose first MiB once was an ext4 is LVM.
var signatures = []signature{
	{0, "LUKS\xba\xbe", LUKS},
	{16 << 10, "SKUL\xba\xbe", LUKS}, // second header of LUKS2, the first of which may be gone
	{24, "LVM2 001", LVM}, {512 + 24, "LVM2 001", LVM}, {1024 + 24, "LVM2 001", LVM}, {1536 + 24, "LVM2 001", LVM},
	{0, "\xfc\x4e\x2b\xa9", MD}, {4096, "\xfc\x4e\x2b\xa9", MD},
	{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", Bcache},
	{0, "bluestore block device\n", BlueStore},
	{64 << 10, "\x01\x16\x19\x70", GFS2}, // magic of every block, big-endian
	{64<<10 + 64, "_BHRfS_M", Btrfs},
	{512, "EFI PART", GPT}, {4096, "EFI PART", GPT},
	{2048, "OCFSV2", OCFS2}, {1024, "OCFSV2", OCFS2}, {4096, "OCFSV2", OCFS2}, {512, "OCFSV2", OCFS2},
	{1 << 20 >> 1, "\x0d\xd0\x01\xc0", VMFS},
	{3, "NTFS    ", NTFS},
	{4096 - 10, "SWAPSPACE2", Swap}, {4096 - 10, "SWAP-SPACE", Swap}, {65536 - 10, "SWAPSPACE2", Swap},
}

func identify(head, tail []byte, size int64) Content {
	for _, s := range signatures {
		if has(head, s.at, s.magic) {
			return Content{Kind: s.kind}
		}
	}
	if kind := identifyTail(tail, size); kind != "" {
		return Content{Kind: kind}
	}
	if zfs(head) || zfs(tail) {
		return Content{Kind: ZFS}
	}
	if c, ok := xfs(head); ok {
		return c
	}
	if c, ok := ext(head); ok {
		return c
	}
	if has(head, 510, "\x55\xaa") {
		return Content{Kind: MBR}
	}
	if zero(head) && zero(tail) {
		return Content{Kind: Empty}
	}
	return Content{Kind: Foreign}
}

func has(b []byte, at int, magic string) bool {
	return at >= 0 && at+len(magic) <= len(b) && string(b[at:at+len(magic)]) == magic
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// identifyTail looks for what is kept at the end of a device.
func identifyTail(tail []byte, size int64) Kind {
	fromEnd := func(n int64) int { return len(tail) - int(n) }
	switch {
	case has(tail, fromEnd(512), "EFI PART"), has(tail, fromEnd(4096), "EFI PART"):
		return GPT
	// md 0.90: the last whole 64 KiB but one, little- or big-endian. md 1.0: 8 to 12 KiB before the end.
	case size >= 128<<10 && (has(tail, fromEnd(size-(size&^(64<<10-1))+64<<10), "\xfc\x4e\x2b\xa9") || has(tail, fromEnd(size-(size&^(64<<10-1))+64<<10), "\xa9\x2b\x4e\xfc")):
		return MD
	case size >= 16<<10 && has(tail, fromEnd(size-(size/512-16)&^7*512), "\xfc\x4e\x2b\xa9"):
		return MD
	// DRBD: the magic of its metadata, 60 bytes into the last 4 KiB.
	case has(tail, fromEnd(4096)+60, "\x83\x74\x02\x6b"), has(tail, fromEnd(4096)+60, "\x83\x74\x02\x6c"), has(tail, fromEnd(4096)+60, "\x83\x74\x02\x6d"):
		return DRBD
	}
	return ""
}

// zfs looks for an uberblock: its array begins 128 KiB into each label of 256 KiB, one every KiB at least.
func zfs(b []byte) bool {
	for at := 0; at+8 <= len(b); at += 1 << 10 {
		if u := binary.LittleEndian.Uint64(b[at:]); u == 0x00bab10c || u == 0x0cb1ba0000000000 {
			return true
		}
	}
	return false
}

// ext reads the superblock of ext2, 3 and 4 (Documentation/filesystems/ext4/super.rst).
func ext(head []byte) (Content, bool) {
	const at = 1024
	if len(head) < at+1024 || !has(head, at+0x38, "\x53\xef") {
		return Content{}, false
	}
	sb := head[at:]
	le := binary.LittleEndian
	const (
		compatJournal         = 0x4
		incompatRecover       = 0x4
		incompatJournalDevice = 0x8
		incompatExtents       = 0x40
		incompat64            = 0x80
	)
	compat, incompat := le.Uint32(sb[0x5c:]), le.Uint32(sb[0x60:])
	blocks, shift := uint64(le.Uint32(sb[0x4:])), le.Uint32(sb[0x18:])
	if incompat&incompat64 != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	if shift > 6 || blocks == 0 || blocks > 1<<46>>shift || incompat&incompatJournalDevice != 0 {
		return Content{Kind: Foreign}, true // it says it is ext and cannot be one of ours
	}
	c := Content{Kind: Ext4, UUID: uuidText(sb[0x68:0x78]), Label: text(sb[0x78:0x88]), Size: int64(blocks << (10 + shift))}
	if compat&compatJournal == 0 || incompat&incompatExtents == 0 {
		c.Kind = Ext23
	}
	state := le.Uint16(sb[0x3a:])
	c.Dirty = state&1 == 0 || incompat&incompatRecover != 0
	c.Errors = state&2 != 0
	return c, true
}

// xfs reads the superblock of XFS (xfs_sb in fs/xfs/libxfs/xfs_format.h), big-endian.
func xfs(head []byte) (Content, bool) {
	if len(head) < 512 || !has(head, 0, "XFSB") {
		return Content{}, false
	}
	be := binary.BigEndian
	size, blocks := uint64(be.Uint32(head[4:])), be.Uint64(head[8:])
	if size < 512 || size > 64<<10 || size&(size-1) != 0 || blocks == 0 || blocks > (1<<62)/size {
		return Content{Kind: Foreign}, true
	}
	return Content{Kind: XFS, UUID: uuidText(head[32:48]), Label: text(head[108:120]), Size: int64(blocks * size)}, true
}

func uuidText(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// text is a label: up to the first zero byte, and printable, since it goes to a terminal.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, string(b))
}
