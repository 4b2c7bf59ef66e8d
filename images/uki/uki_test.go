package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// stub is a program with one section and room for headers, as small as one can be.
func stub(headers int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x400)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	coff := b[0x44:]
	le.PutUint16(coff, pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	opt := b[0x58:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], 0x200)
	le.PutUint32(opt[56:], 0x2000)
	le.PutUint32(opt[60:], uint32(headers))
	le.PutUint32(opt[108:], 16)
	sec := b[0x58+240:]
	copy(sec, ".text")
	le.PutUint32(sec[8:], 0x10)
	le.PutUint32(sec[12:], 0x1000)
	le.PutUint32(sec[16:], 0x200)
	le.PutUint32(sec[20:], uint32(headers))
	return append(b[:headers], make([]byte, 0x200)...)
}

func bzImage() []byte {
	k := bytes.Repeat([]byte{7}, 5000)
	copy(k[0x202:], "HdrS")
	return k
}

func TestJoin(t *testing.T) {
	p := Parts{Stub: stub(0x400), Kernel: bzImage(), Initrd: bytes.Repeat([]byte{9}, 3001), Cmdline: "console=ttyS0", OSRelease: "ID=skein\n", Uname: "6.1"}
	out, err := Join(p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	end := uint32(0)
	for _, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%0x1000 != 0 || s.Offset%0x200 != 0 {
			t.Errorf("section %s at %#x, in the file at %#x; the one before ends at %#x", s.Name, s.VirtualAddress, s.Offset, end)
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	for name, want := range map[string]string{".osrel": p.OSRelease, ".cmdline": p.Cmdline, ".uname": p.Uname, ".initrd": string(p.Initrd), ".linux": string(p.Kernel)} {
		s := f.Section(name)
		if s == nil {
			t.Fatalf("no section %s", name)
		}
		data, err := s.Data()
		if err != nil || string(data[:s.VirtualSize]) != want {
			t.Errorf("%s: got %d bytes, %v; want %d", name, s.VirtualSize, err, len(want))
		}
	}
	if oh := f.OptionalHeader.(*pe.OptionalHeader64); oh.SizeOfImage < end || oh.SizeOfImage%0x1000 != 0 {
		t.Errorf("the image has %#x bytes in memory, its sections end at %#x", oh.SizeOfImage, end)
	}
	again, err := Join(p)
	if err != nil || !bytes.Equal(again, out) {
		t.Error("the same parts make another image")
	}
}

func TestJoinRefuses(t *testing.T) {
	for want, p := range map[string]Parts{
		"no bzImage":          {Stub: stub(0x400), Kernel: make([]byte, 1000)},
		"no program for UEFI": {Stub: []byte("MZ"), Kernel: bzImage()},
		"no room":             {Stub: stub(0x200), Kernel: bzImage()},
	} {
		if _, err := Join(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func FuzzStub(f *testing.F) {
	f.Add(stub(0x400))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = Join(Parts{Stub: data, Kernel: bzImage(), Initrd: []byte("x")})
	})
}
