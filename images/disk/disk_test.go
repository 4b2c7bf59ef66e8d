package disk

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// TestFAT reads back, by the format's own rules, where files are and that their chains are whole.
func TestFAT(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	data, offsets, err := makeFAT("SKEIN", 1, 2048, []File{{"EFI/BOOT/BOOTX64.EFI", big}, {"loader/keys/skein/PK.auth", []byte("pk")}, {"loader/keys/skein/KEK.auth", []byte("kek")}})
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	perCluster, reserved, fatSize := int(data[13]), int(le.Uint16(data[14:])), int(le.Uint32(data[36:]))
	clusters := (int(le.Uint32(data[32:])) - reserved - 2*fatSize) / perCluster
	if clusters < minFAT32 || fatSize*512/4 < clusters+2 || len(data) != int(le.Uint32(data[32:]))*512 {
		t.Errorf("%d clusters, %d FAT sectors, %d bytes: no FAT32", clusters, fatSize, len(data))
	}
	if !bytes.Equal(data[:1024], data[6*512:8*512]) {
		t.Error("the copy of the boot sector differs")
	}
	at := func(c uint32) []byte { return data[(reserved+2*fatSize+int(c-2)*perCluster)*512:] }
	find := func(dir uint32, short string) (cluster, size uint32) {
		t.Helper()
		for d := at(dir); d[0] != 0; d = d[32:] {
			if string(d[:11]) == short {
				return uint32(le.Uint16(d[20:]))<<16 | uint32(le.Uint16(d[26:])), le.Uint32(d[28:])
			}
		}
		t.Fatalf("no %q", short)
		return
	}
	dir, _ := find(le.Uint32(data[44:]), "EFI        ")
	dir, _ = find(dir, "BOOT       ")
	first, size := find(dir, "BOOTX64 EFI")
	n := uint32(0)
	for c := first; c < 0x0ffffff8; c = le.Uint32(data[reserved*512+4*int(c):]) {
		if c != first+n {
			t.Fatalf("cluster %d follows %d", c, first+n-1)
		}
		n++
	}
	if want := uint32((len(big) + perCluster*512 - 1) / (perCluster * 512)); int(size) != len(big) || n != want || !bytes.Equal(at(first)[:size], big) {
		t.Errorf("got %d bytes in %d clusters, want %d in %d", size, n, len(big), want)
	}
	if o := offsets["EFI/BOOT/BOOTX64.EFI"]; o%cdSector != 0 || !bytes.Equal(data[o:o+len(big)], big) {
		t.Errorf("the file is not at %d", o)
	}
	for _, name := range []string{"", "a//b", "../x", "a/b ", "a:b"} {
		if _, _, err := makeFAT("X", 1, 0, []File{{name, nil}}); err == nil {
			t.Errorf("%q: want an error", name)
		}
	}
	if _, _, err := makeFAT("X", 1, 0, []File{{"a/B", nil}, {"A/b", nil}}); err == nil {
		t.Error("one name in two cases: want an error")
	}
}

// TestGPT: both headers and the table are as their sums say.
func TestGPT(t *testing.T) {
	image := make([]byte, 4*mebibyte)
	writeGPT(image, nil, 0, guid{1}, guid{2}, 2048, 4095)
	le := binary.LittleEndian
	for _, at := range []int{512, len(image) - 512} {
		h := bytes.Clone(image[at:][:gptHeaderSize])
		sum := le.Uint32(h[16:])
		le.PutUint32(h[16:], 0)
		if got := crc32.ChecksumIEEE(h); string(h[:8]) != "EFI PART" || got != sum || le.Uint64(h[24:])*512 != uint64(at) {
			t.Errorf("header at %d: sum %x, want %x", at, sum, got)
		}
		table := image[le.Uint64(h[72:])*512:][:gptEntries*gptEntrySize]
		if crc32.ChecksumIEEE(table) != le.Uint32(h[88:]) || !bytes.Equal(table[:16], espType[:]) || le.Uint64(table[40:]) != 4095 {
			t.Errorf("table of the header at %d is wrong", at)
		}
	}
}

// TestQCOW2 reads the disk back through its tables.
func TestQCOW2(t *testing.T) {
	raw := make([]byte, 3<<20+512)
	copy(raw[100:], "begin")
	copy(raw[2<<20:], "middle")
	copy(raw[len(raw)-3:], "end")
	var b bytes.Buffer
	if err := WriteQCOW2(&b, raw); err != nil {
		t.Fatal(err)
	}
	q, be := b.Bytes(), binary.BigEndian
	if len(q) > len(raw) {
		t.Errorf("%d bytes for a disk of %d that is nearly empty", len(q), len(raw))
	}
	got := make([]byte, (len(raw)+65535)/65536*65536)
	l2 := be.Uint64(q[be.Uint64(q[40:]):]) &^ (1 << 63)
	for i := range len(got) / 65536 {
		if at := be.Uint64(q[l2+uint64(8*i):]) &^ (1 << 63); at != 0 {
			copy(got[i*65536:(i+1)*65536], q[at:])
		}
	}
	if !bytes.Equal(got[:len(raw)], raw) || be.Uint64(q[24:]) != uint64(len(raw)) {
		t.Error("the disk that comes back is another")
	}
}
