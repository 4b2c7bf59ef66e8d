package disk

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// Sectors of a CD, of 2048 bytes. The first sixteen are the system's.
const (
	cdPrimary = 16 + iota
	cdBoot
	cdTerminator
	cdCatalog
	cdPathLE
	cdPathBE
	cdRoot
)

// extent is a file in ISO 9660 whose bytes are somewhere in the image already.
type extent struct {
	name   string
	sector uint32
	size   uint32
}

var cdName = regexp.MustCompile(`^[A-Z0-9_]{1,8}(\.[A-Z0-9_]{1,3})?$`)

// writeISO writes the volume descriptors and the one folder of an ISO 9660 file system whose files are in place, and
// El Torito's catalogue: loader for BIOS (0: none) and esp for UEFI are numbers of sectors.
func writeISO(image []byte, label string, files []extent, loader, esp uint32, espBytes int) error {
	sort.Slice(files, func(i, j int) bool { return files[i].name < files[j].name })
	dirSize := directorySize(files)
	d := image[cdPrimary*cdSector:][:cdSector]
	d[0], d[6] = 1, 1
	copy(d[1:], "CD001")
	copy(d[8:40], fmt.Sprintf("%-32s", ""))
	copy(d[40:72], fmt.Sprintf("%-32s", label))
	both32(d[80:], uint32(len(image)/cdSector))
	both16(d[120:], 1)
	both16(d[124:], 1)
	both16(d[128:], cdSector)
	both32(d[132:], 10) // bytes of the path table
	binary.LittleEndian.PutUint32(d[140:], cdPathLE)
	binary.BigEndian.PutUint32(d[148:], cdPathBE)
	copy(d[156:190], directoryRecord("\x00", cdRoot, dirSize, 2))
	copy(d[190:813], strings.Repeat(" ", 623)) // names of volume set, publisher, preparer, application, files
	for _, at := range []int{813, 830, 847, 864} {
		copy(d[at:], "0000000000000000") // no date
	}
	d[881] = 1

	b := image[cdBoot*cdSector:][:cdSector]
	copy(b[1:], "CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[71:], cdCatalog)
	copy(image[cdTerminator*cdSector:], "\xffCD001\x01")
	writeCatalog(image[cdCatalog*cdSector:][:cdSector], loader, esp, espBytes)

	for at, order := range map[int]binary.ByteOrder{cdPathLE: binary.LittleEndian, cdPathBE: binary.BigEndian} {
		p := image[at*cdSector:]
		p[0] = 1
		order.PutUint32(p[2:], cdRoot)
		order.PutUint16(p[6:], 1)
	}
	dir := image[cdRoot*cdSector:][:dirSize]
	at := copy(dir, directoryRecord("\x00", cdRoot, dirSize, 2))
	at += copy(dir[at:], directoryRecord("\x01", cdRoot, dirSize, 2))
	for i, f := range files {
		if !cdName.MatchString(f.name) || i > 0 && files[i-1].name == f.name {
			return fmt.Errorf("%q cannot be the name of a file on a CD, or is there twice: want as in README.TXT", f.name)
		}
		r := directoryRecord(isoName(f.name), f.sector, f.size, 0)
		if at%cdSector+len(r) > cdSector { // no record crosses a sector's end
			at += cdSector - at%cdSector
		}
		at += copy(dir[at:], r)
	}
	return nil
}

func isoName(name string) string {
	if !strings.Contains(name, ".") {
		name += "."
	}
	return name + ";1"
}

func directorySize(files []extent) uint32 {
	at := 2 * len(directoryRecord("\x00", 0, 0, 2))
	for _, f := range files {
		n := len(directoryRecord(isoName(f.name), 0, 0, 0))
		if at%cdSector+n > cdSector {
			at += cdSector - at%cdSector
		}
		at += n
	}
	return uint32((at + cdSector - 1) / cdSector * cdSector)
}

func directoryRecord(name string, sector, size uint32, flags byte) []byte {
	r := make([]byte, (33+len(name)+1)/2*2)
	r[0] = byte(len(r))
	both32(r[2:], sector)
	both32(r[10:], size)
	r[25] = flags
	both16(r[28:], 1)
	r[32] = byte(len(name))
	copy(r[33:], name)
	return r
}

// both32 writes a number in both byte orders.
func both32(b []byte, n uint32) {
	binary.LittleEndian.PutUint32(b, n)
	binary.BigEndian.PutUint32(b[4:], n)
}

func both16(b []byte, n uint16) {
	binary.LittleEndian.PutUint16(b, n)
	binary.BigEndian.PutUint16(b[2:], n)
}

// writeCatalog writes El Torito's catalogue. Firmware that finds only UEFI's entry must find it as the first.
func writeCatalog(c []byte, loader, esp uint32, espBytes int) {
	const platformBIOS, platformUEFI = 0, 0xef
	le := binary.LittleEndian
	entry := func(at int, sectors uint16, lba uint32) {
		c[at] = 0x88 // bootable, no emulation
		le.PutUint16(c[at+6:], sectors)
		le.PutUint32(c[at+8:], lba)
	}
	// The size is told in 512 bytes and has 16 bits. 0 is to the end of the medium, where the ESP is.
	size := uint16(0)
	if n := espBytes / sectorSize; n <= 0xffff {
		size = uint16(n)
	}
	c[0], c[1] = 1, platformBIOS
	if loader == 0 {
		c[1] = platformUEFI
		entry(32, size, esp)
	} else {
		entry(32, 4, loader)
		c[64], c[65] = 0x91, platformUEFI // the last header, with one entry
		le.PutUint16(c[66:], 1)
		entry(96, size, esp)
	}
	c[30], c[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += le.Uint16(c[i:])
	}
	le.PutUint16(c[28:], -sum)
}
