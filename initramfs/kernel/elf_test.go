package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
)

// moduleFile makes the smallest ELF object that looks like a module: a .modinfo section of these fields.
func moduleFile(t testing.TB, extraSection string, fields ...string) []byte {
	t.Helper()
	modinfo := strings.Join(fields, "\x00") + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00" + extraSection + "\x00"
	const headerSize = 64
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: headerSize, Size: uint64(len(modinfo))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: headerSize + uint64(len(modinfo)), Size: uint64(len(names))},
	}
	if extraSection != "" {
		sections = append(sections, elf.Section64{Name: 20, Type: uint32(elf.SHT_PROGBITS), Off: headerSize, Size: 1})
	}
	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: headerSize,
		Shoff: headerSize + uint64(len(modinfo)+len(names)), Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: 2,
	}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var b bytes.Buffer
	for _, v := range []any{header, []byte(modinfo + names), sections} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}
