package disk

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
	"unicode/utf16"
)

const (
	minFAT32    = 65525 // clusters; a driver takes a file system with fewer for FAT16
	fatReserved = 32    // sectors before the first FAT, at least
	fatBackup   = 6     // sector of the boot sector's copy
	fatEntry    = 32
	fatEnd      = 0x0fffffff
	fatMedia    = 0xf8
	fatDate     = 1<<5 | 1 // 1 January 1980, the earliest there is
	attrVolume  = 0x08
	attrFolder  = 0x10
	attrArchive = 0x20
	attrLong    = 0x0f
	longChars   = 13 // of a name, in one entry
	cdSectors   = cdSector / sectorSize
)

// folder is a directory while the file system is made.
type folder struct {
	name    string
	parent  *folder
	folders map[string]*folder // by lower-case name, as are files: FAT knows no difference
	files   map[string]*fatFile
	cluster uint32
}

type fatFile struct {
	name    string
	data    []byte
	cluster uint32
}

// fat is the layout of a FAT32 file system.
type fat struct {
	perCluster int // sectors
	reserved   int // sectors
	fatSectors int
	clusters   int
	table      []uint32
	next       uint32
	out        []byte
}

// at is where a cluster's bytes are in the file system.
func (f *fat) at(cluster uint32) int {
	return (f.reserved + 2*f.fatSectors + int(cluster-2)*f.perCluster) * sectorSize
}

// makeFAT makes a FAT32 file system with the files, as small as may be, and tells where each file's bytes begin. They
// are in one piece from a whole CD sector on.
func makeFAT(label string, serial uint32, hidden uint32, files []File) (data []byte, offsets map[string]int, err error) {
	root := newFolder("", nil)
	total := 0
	for _, f := range files {
		if err := root.add(f); err != nil {
			return nil, nil, err
		}
		total += (len(f.Data) + cdSector) / cdSector * cdSector
	}
	// Clusters as large as their least number allows without making the image larger than 1 KiB does: some firmware
	// reads one at a time.
	f := &fat{perCluster: 2, next: 2}
	for total/(f.perCluster*2*sectorSize) >= minFAT32 {
		f.perCluster *= 2
	}
	clusterSize := f.perCluster * sectorSize
	// Folders need a cluster or some each; a sixteenth is left free, for what is put onto a stick afterwards.
	f.clusters = max(minFAT32+16, total/clusterSize*17/16+len(files)*8*cdSectors+64)
	f.fatSectors = ((f.clusters+2)*4 + sectorSize - 1) / sectorSize
	f.reserved = fatReserved
	for (f.reserved+2*f.fatSectors)%cdSectors != 0 {
		f.reserved++
	}
	sectors := f.reserved + 2*f.fatSectors + f.clusters*f.perCluster
	f.table = make([]uint32, f.clusters+2)
	f.table[0], f.table[1] = 0x0fffff00|fatMedia, fatEnd
	f.out = make([]byte, sectors*sectorSize)
	f.place(root, label)
	offsets = map[string]int{}
	f.write(root, "", label, offsets)
	if int(f.next)-2 > f.clusters {
		return nil, nil, fmt.Errorf("the files need %d clusters, there are %d", int(f.next)-2, f.clusters)
	}
	f.header(label, serial, hidden, uint32(sectors), root.cluster)
	return f.out, offsets, nil
}

func newFolder(name string, parent *folder) *folder {
	return &folder{name: name, parent: parent, folders: map[string]*folder{}, files: map[string]*fatFile{}}
}

func (d *folder) add(f File) error {
	parts := strings.Split(f.Name, "/")
	for i, p := range parts {
		if p == "" || len(p) > 255 || strings.HasPrefix(p, ".") || strings.HasSuffix(p, ".") || strings.ContainsFunc(p, func(r rune) bool {
			return r < 0x21 || r > 0x7e || strings.ContainsRune(`"*/:<>?\|`, r)
		}) {
			return fmt.Errorf("%q cannot be the name of a file in the ESP", f.Name)
		}
		key := strings.ToLower(p)
		isFile, isFolder := d.files[key] != nil, d.folders[key] != nil
		if i == len(parts)-1 {
			if isFile || isFolder {
				return fmt.Errorf("%q is in the ESP twice", f.Name)
			}
			d.files[key] = &fatFile{name: p, data: f.Data}
			return nil
		}
		if isFile {
			return fmt.Errorf("%q is in the ESP as a file and as a folder", f.Name)
		}
		if !isFolder {
			d.folders[key] = newFolder(p, d)
		}
		d = d.folders[key]
	}
	return nil
}

func sorted[T any](m map[string]T) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// take allots clusters in one piece for n bytes. Past the end it only counts; makeFAT sees that.
func (f *fat) take(n int) uint32 {
	if n == 0 {
		return 0
	}
	for int(f.next-2)*f.perCluster%cdSectors != 0 {
		f.next++ // left free
	}
	first := f.next
	count := uint32((n + f.perCluster*sectorSize - 1) / (f.perCluster * sectorSize))
	f.next += count
	for c := first; c < f.next && int(c) < len(f.table); c++ {
		f.table[c] = c + 1
		if c == f.next-1 {
			f.table[c] = fatEnd
		}
	}
	return first
}

// place allots clusters to a folder and all in it, folders first.
func (f *fat) place(d *folder, label string) {
	d.cluster = f.take(len(f.entries(d, label))) // the size does not depend on clusters
	for _, n := range sorted(d.folders) {
		f.place(d.folders[n], label)
	}
	for _, n := range sorted(d.files) {
		d.files[n].cluster = f.take(len(d.files[n].data))
	}
}

func (f *fat) write(d *folder, path, label string, offsets map[string]int) {
	put := func(cluster uint32, data []byte) {
		if cluster != 0 && f.at(cluster)+len(data) <= len(f.out) {
			copy(f.out[f.at(cluster):], data)
		}
	}
	put(d.cluster, f.entries(d, label))
	for _, n := range sorted(d.folders) {
		f.write(d.folders[n], path+d.folders[n].name+"/", label, offsets)
	}
	for _, n := range sorted(d.files) {
		file := d.files[n]
		put(file.cluster, file.data)
		if file.cluster != 0 {
			offsets[path+file.name] = f.at(file.cluster)
		}
	}
}

// entries are the bytes of a folder.
func (f *fat) entries(d *folder, label string) []byte {
	var out []byte
	if d.parent == nil {
		out = append(out, entry(shortName(label, ""), attrVolume, 0, 0)...)
	} else {
		up := d.parent.cluster
		if d.parent.parent == nil {
			up = 0 // the root is told as cluster 0
		}
		out = append(out, entry(shortName(".", ""), attrFolder, d.cluster, 0)...)
		out = append(out, entry(shortName("..", ""), attrFolder, up, 0)...)
	}
	taken := map[[11]byte]bool{}
	for _, n := range sorted(d.folders) {
		out = append(out, named(d.folders[n].name, attrFolder, d.folders[n].cluster, 0, taken)...)
	}
	for _, n := range sorted(d.files) {
		file := d.files[n]
		out = append(out, named(file.name, attrArchive, file.cluster, uint32(len(file.data)), taken)...)
	}
	return append(out, make([]byte, fatEntry)...) // the end
}

func shortName(base, ext string) (s [11]byte) {
	copy(s[:], strings.Repeat(" ", 11))
	copy(s[:8], base)
	copy(s[8:], ext)
	return s
}

func entry(name [11]byte, attr byte, cluster, size uint32) []byte {
	e := make([]byte, fatEntry)
	le := binary.LittleEndian
	copy(e, name[:])
	e[11] = attr
	le.PutUint16(e[16:], fatDate) // made
	le.PutUint16(e[18:], fatDate) // read
	le.PutUint16(e[20:], uint16(cluster>>16))
	le.PutUint16(e[24:], fatDate) // written
	le.PutUint16(e[26:], uint16(cluster))
	le.PutUint32(e[28:], size)
	return e
}

// named is a file's entry, with entries for its long name before it if it has no short one.
func named(name string, attr byte, cluster, size uint32, taken map[[11]byte]bool) []byte {
	short, exact := shorten(name, taken)
	taken[short] = true
	var out []byte
	if !exact {
		var sum byte
		for _, c := range short {
			sum = sum>>1 | sum<<7
			sum += c
		}
		u := utf16.Encode([]rune(name))
		count := (len(u) + longChars - 1) / longChars
		padded := make([]uint16, count*longChars)
		for i := range padded {
			padded[i] = 0xffff
		}
		copy(padded, u)
		if len(u) < len(padded) {
			padded[len(u)] = 0
		}
		for i := count; i > 0; i-- {
			e := make([]byte, fatEntry)
			e[0], e[11], e[13] = byte(i), attrLong, sum
			if i == count {
				e[0] |= 0x40
			}
			chars := padded[(i-1)*longChars:]
			for j, at := range [longChars]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				binary.LittleEndian.PutUint16(e[at:], chars[j])
			}
			out = append(out, e...)
		}
	}
	return append(out, entry(short, attr, cluster, size)...)
}

// shorten is a name's 8.3 form; exact if that is all the name there is, but for case.
func shorten(name string, taken map[[11]byte]bool) (short [11]byte, exact bool) {
	upper := strings.ToUpper(name)
	base, ext, _ := strings.Cut(upper, ".")
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
				return r
			}
			return -1
		}, s)
	}
	if base != "" && len(base) <= 8 && len(ext) <= 3 && plain(base) == base && plain(ext) == ext {
		if s := shortName(base, ext); !taken[s] {
			return s, true
		}
	}
	if i := strings.LastIndexByte(upper, '.'); i > 0 {
		base, ext = upper[:i], upper[i+1:]
	}
	base, ext = plain(base), plain(ext)
	for n := 1; ; n++ {
		tail := fmt.Sprintf("~%d", n)
		s := shortName(base[:min(len(base), 8-len(tail))]+tail, ext[:min(len(ext), 3)])
		if !taken[s] {
			return s, false
		}
	}
}

// header writes the boot sector, the FSInfo sector, copies of both, and the FATs.
func (f *fat) header(label string, serial, hidden, sectors, root uint32) {
	le := binary.LittleEndian
	b := make([]byte, sectorSize)
	copy(b, "\xeb\x58\x90SKEIN   ")
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(f.perCluster)
	le.PutUint16(b[14:], uint16(f.reserved))
	b[16] = 2 // FATs
	b[21] = fatMedia
	le.PutUint16(b[24:], 63)  // sectors per track, of no use since LBA
	le.PutUint16(b[26:], 255) // heads
	le.PutUint32(b[28:], hidden)
	le.PutUint32(b[32:], sectors)
	le.PutUint32(b[36:], uint32(f.fatSectors))
	le.PutUint32(b[44:], root)
	le.PutUint16(b[48:], 1) // FSInfo
	le.PutUint16(b[50:], fatBackup)
	b[64] = 0x80 // drive
	b[66] = 0x29 // the next three are there
	le.PutUint32(b[67:], serial)
	copy(b[71:82], fmt.Sprintf("%-11s", label))
	copy(b[82:], "FAT32   ")
	b[90], b[91] = 0xcd, 0x18 // int 18h: nothing to boot here, the next device
	b[510], b[511] = 0x55, 0xaa
	info := make([]byte, sectorSize)
	le.PutUint32(info, 0x41615252)
	le.PutUint32(info[484:], 0x61417272)
	le.PutUint32(info[488:], uint32(f.clusters)-(f.next-2))
	le.PutUint32(info[492:], f.next)
	info[510], info[511] = 0x55, 0xaa
	for _, at := range []int{0, fatBackup} {
		copy(f.out[at*sectorSize:], b)
		copy(f.out[(at+1)*sectorSize:], info)
	}
	for i := range 2 {
		at := (f.reserved + i*f.fatSectors) * sectorSize
		for c, v := range f.table {
			le.PutUint32(f.out[at+c*4:], v)
		}
	}
}
