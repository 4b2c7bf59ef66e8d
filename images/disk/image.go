package disk

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Parts of an image.
type Parts struct {
	// Unified is the unified image for UEFI (package uki), signed or not.
	Unified []byte
	// Cmdline is what the kernel is told when a BIOS boots; in Unified it is already.
	Cmdline string
	// BIOS is SYSLINUX, from Debian's packages isolinux and syslinux-common. Empty: the image boots by UEFI alone.
	BIOS BIOS
	// ESP are further files for the ESP.
	ESP []File
	// CD are further files that a CD shows: notices, the manifest.
	CD []File
}

// BIOS are the programs that boot by BIOS.
type BIOS struct {
	MBR      []byte // isohdpfx.bin
	ISOLINUX []byte // isolinux.bin
	LDLINUX  []byte // ldlinux.c32
}

const (
	label       = "SKEIN"
	unifiedPath = "EFI/BOOT/BOOTX64.EFI"
	espStart    = 1 * mebibyte
	// bootInfo is where isolinux.bin expects to be told where it lies, and after how many bytes its checksum begins.
	bootInfo, bootInfoEnd = 8, 64
)

// Join makes the image.
func Join(p Parts) ([]byte, error) {
	sections, err := sectionsOf(p.Unified)
	if err != nil {
		return nil, err
	}
	all := append([]File{{unifiedPath, p.Unified}}, p.ESP...)
	sum := sha256.New()
	for _, f := range append(append([]File{{"cmdline", []byte(p.Cmdline)}}, all...), p.CD...) {
		fmt.Fprintf(sum, "%s %d\n", f.Name, len(f.Data))
		sum.Write(f.Data)
	}
	id := sum.Sum(nil)
	esp, offsets, err := makeFAT(label, binary.LittleEndian.Uint32(id), espStart/sectorSize, all)
	if err != nil {
		return nil, err
	}
	end := espStart + len(esp)
	size := (end + (gptTable+1)*sectorSize + mebibyte - 1) / mebibyte * mebibyte
	image := make([]byte, size)
	copy(image[espStart:], esp)

	var files []extent
	at := 0
	put := func(name string, data []byte) error {
		if at+len(data) > espStart {
			return fmt.Errorf("%s: the files before the ESP have more than 1 MiB", name)
		}
		copy(image[at:], data)
		files = append(files, extent{name, uint32(at / cdSector), uint32(len(data))})
		at += (len(data) + cdSector - 1) / cdSector * cdSector
		return nil
	}
	cd := p.CD
	var loader uint32
	if len(p.BIOS.ISOLINUX) > 0 {
		if len(p.BIOS.MBR) != mbrLoader || len(p.BIOS.ISOLINUX) <= bootInfoEnd {
			return nil, fmt.Errorf("isohdpfx.bin has %d bytes and isolinux.bin %d: want %d and more than %d", len(p.BIOS.MBR), len(p.BIOS.ISOLINUX), mbrLoader, bootInfoEnd)
		}
		if strings.ContainsAny(p.Cmdline, "\r\n") {
			return nil, errors.New("the kernel's command line has more than one line")
		}
		cd = append([]File{{"ISOLINUX.BIN", nil}, {"LDLINUX.C32", p.BIOS.LDLINUX}, {"ISOLINUX.CFG", []byte(menu(p.Cmdline))}}, cd...)
		for name, s := range map[string]section{"LINUX": sections.kernel, "INITRD": sections.initrd} {
			first := espStart + offsets[unifiedPath] + s.at
			if first%cdSector != 0 {
				return nil, fmt.Errorf("%s is at byte %d of the unified image, which is no whole CD sector", name, s.at)
			}
			files = append(files, extent{name, uint32(first / cdSector), uint32(s.size)})
		}
	}
	names := append([]extent(nil), files...)
	for _, f := range cd {
		names = append(names, extent{name: f.Name})
	}
	at = cdRoot*cdSector + int(directorySize(names))
	for _, f := range cd {
		if f.Name == "ISOLINUX.BIN" {
			loader = uint32(at / cdSector)
			f.Data = locate(p.BIOS.ISOLINUX, loader)
		}
		if err := put(f.Name, f.Data); err != nil {
			return nil, err
		}
	}
	if err := writeISO(image, label, files, loader, espStart/cdSector, len(esp)); err != nil {
		return nil, err
	}
	mbr := p.BIOS.MBR
	if loader == 0 {
		mbr = nil
	}
	writeGPT(image, mbr, loader*(cdSector/sectorSize), guidOf(id), guidOf(id[16:]), espStart/sectorSize, uint64(end/sectorSize-1))
	return image, nil
}

// menu is isolinux.cfg. There is no prompt: noise on a serial line would stop the boot there.
func menu(cmdline string) string {
	return "DEFAULT skein\nPROMPT 0\nNOESCAPE 1\nALLOWOPTIONS 0\nSAY Skein: loading the kernel\n" +
		"LABEL skein\nLINUX /LINUX\nINITRD /INITRD\nAPPEND " + cmdline + "\n"
}

// locate tells isolinux.bin where it lies: mkisofs' boot information table.
func locate(program []byte, sector uint32) []byte {
	out := append(bytes.Clone(program), make([]byte, (4-len(program)%4)%4)...)
	le := binary.LittleEndian
	var sum uint32
	for i := bootInfoEnd; i < len(out); i += 4 {
		sum += le.Uint32(out[i:])
	}
	clear(out[bootInfo:bootInfoEnd])
	le.PutUint32(out[bootInfo:], cdPrimary)
	le.PutUint32(out[bootInfo+4:], sector)
	le.PutUint32(out[bootInfo+8:], uint32(len(program)))
	le.PutUint32(out[bootInfo+12:], sum)
	return out[:len(program)]
}

type section struct{ at, size int }

type unified struct{ kernel, initrd section }

// sectionsOf finds kernel and archive in a unified image.
func sectionsOf(image []byte) (u unified, err error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return u, fmt.Errorf("the unified image is no program for UEFI: %w", err)
	}
	defer f.Close()
	for name, to := range map[string]*section{".linux": &u.kernel, ".initrd": &u.initrd} {
		s := f.Section(name)
		if s == nil || s.VirtualSize > s.Size || int64(s.Offset)+int64(s.Size) > int64(len(image)) {
			return u, fmt.Errorf("the unified image has no section %s", name)
		}
		*to = section{int(s.Offset), int(s.VirtualSize)}
	}
	return u, nil
}
