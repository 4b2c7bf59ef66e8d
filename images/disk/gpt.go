package disk

import (
	"encoding/binary"
	"hash/crc32"
	"unicode/utf16"
)

const (
	gptEntries     = 128
	gptEntrySize   = 128
	gptTable       = gptEntries * gptEntrySize / sectorSize // sectors
	gptHeaderSize  = 92
	mbrLoader      = 432 // bytes of SYSLINUX's loader, then the number of the sector where isolinux.bin begins
	mbrSignature   = 440
	mbrTable       = 446
	mbrProtective  = 0xee
	mbrActive      = 0x80
	gptFirstUsable = 2 + gptTable
)

// guid is a GUID as it lies on a disk, the first three fields with the least byte first.
type guid [16]byte

// espType is C12A7328-F81F-11D2-BA4B-00A0C93EC93B.
var espType = guid{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}

// guidOf makes a GUID of a sum: version 8, "custom" (RFC 9562 5.8).
func guidOf(sum []byte) (g guid) {
	copy(g[:], sum)
	g[7] = g[7]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return g
}

// writeGPT writes the protective MBR with a loader for BIOS, which may be nil, and the partition tables of an image
// with one partition of the sectors first to last.
func writeGPT(image, loader []byte, loads uint32, disk, part guid, first, last uint64) {
	le := binary.LittleEndian
	total := uint64(len(image) / sectorSize)
	if loader != nil {
		copy(image, loader[:mbrLoader])
		le.PutUint64(image[mbrLoader:], uint64(loads))
	}
	copy(image[mbrSignature:mbrSignature+4], disk[:4])
	protective := image[mbrTable:][:16]
	protective[2] = 2 // CHS 0/0/2, as the UEFI specification has it
	protective[4] = mbrProtective
	protective[5], protective[6], protective[7] = 0xff, 0xff, 0xff
	le.PutUint32(protective[8:], 1)
	le.PutUint32(protective[12:], uint32(min(total-1, 0xffffffff)))
	// Some BIOSes boot no disk without an active partition, some UEFIs no GPT with an active protective one: so an
	// empty one is active, of type 0, which is none.
	active := image[mbrTable+16:][:16]
	active[0] = mbrActive
	le.PutUint32(active[12:], 1)
	image[510], image[511] = 0x55, 0xaa

	table := make([]byte, gptEntries*gptEntrySize)
	copy(table, espType[:])
	copy(table[16:], part[:])
	le.PutUint64(table[32:], first)
	le.PutUint64(table[40:], last)
	for i, u := range utf16.Encode([]rune("EFI system partition")) {
		le.PutUint16(table[56+2*i:], u)
	}
	header := func(own, other, entries uint64) {
		h := image[own*sectorSize:][:gptHeaderSize]
		copy(h, "EFI PART")
		le.PutUint32(h[8:], 0x10000)
		le.PutUint32(h[12:], gptHeaderSize)
		le.PutUint64(h[24:], own)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], gptFirstUsable)
		le.PutUint64(h[48:], total-gptTable-2)
		copy(h[56:], disk[:])
		le.PutUint64(h[72:], entries)
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntrySize)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
		copy(image[entries*sectorSize:], table)
	}
	header(1, total-1, 2)
	header(total-1, 1, total-1-gptTable)
}
