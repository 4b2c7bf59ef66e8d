// Package uki puts a kernel, an archive and a command line into one program for UEFI, a unified kernel image
// (the UAPI group's specification of that name): what firmware starts from a disk, by HTTP or by TFTP, and what is
// signed as one.
//
// It is systemd's stub with the parts as further sections. Same input, same bytes.
package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
)

// Parts of an image.
type Parts struct {
	Stub      []byte // systemd's linuxx64.efi.stub
	Kernel    []byte // bzImage
	Initrd    []byte
	Cmdline   string
	OSRelease string // os-release(5)
	Uname     string // the kernel's version
}

// Offsets in a PE file (Microsoft's PE format, "COFF File Header" and "Optional Header", PE32+).
const (
	peOffsetAt         = 0x3c // where the offset of the PE signature is
	signatureSize      = 4
	coffSize           = 20
	sectionsAt         = 2  // in the COFF header: NumberOfSections
	optionalSizeAt     = 16 // in the COFF header
	initializedDataAt  = 8  // in the optional header, as the following
	sectionAlignmentAt = 32
	fileAlignmentAt    = 36
	imageSizeAt        = 56
	headersSizeAt      = 60
	checksumAt         = 64
	minOptional        = 68
	sectionHeader      = 40

	// cdSector is what each part begins at a multiple of, so that a CD's file system, too, can name it (package disk).
	// The part before it is filled up: bytes that are in no section are in no signature.
	cdSector = 2048

	initializedDataFlag, readFlag = 0x40, 0x40000000
)

// Join makes the image.
func Join(p Parts) ([]byte, error) {
	if len(p.Kernel) < 0x206 || string(p.Kernel[0x202:0x206]) != "HdrS" {
		return nil, errors.New("the kernel is no bzImage")
	}
	f, err := pe.NewFile(bytes.NewReader(p.Stub))
	if err != nil {
		return nil, fmt.Errorf("the stub is no program for UEFI: %w", err)
	}
	defer f.Close()
	if f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 {
		return nil, fmt.Errorf("the stub is for machine type %#x, want x64", f.Machine)
	}
	out := bytes.Clone(p.Stub)
	le := binary.LittleEndian
	if !bytes.HasPrefix(out, []byte("MZ")) { // debug/pe reads object files, too
		return nil, errors.New("the stub is no program for UEFI: it does not begin with MZ")
	}
	coff := int(le.Uint32(out[peOffsetAt:])) + signatureSize
	optional := coff + coffSize
	if optional > len(out) {
		return nil, errors.New("the stub's header is cut off")
	}
	optionalSize := int(le.Uint16(out[coff+optionalSizeAt:]))
	if optionalSize < minOptional || len(out) < optional+optionalSize {
		return nil, errors.New("the stub's optional header is cut off")
	}
	fileAlign, memoryAlign := le.Uint32(out[optional+fileAlignmentAt:]), le.Uint32(out[optional+sectionAlignmentAt:])
	if fileAlign == 0 || memoryAlign == 0 || fileAlign > 1<<16 || memoryAlign > 1<<16 {
		return nil, fmt.Errorf("the stub's alignments (%d, %d) make no sense", fileAlign, memoryAlign)
	}
	table := optional + optionalSize
	count := int(le.Uint16(out[coff+sectionsAt:]))
	headersEnd := min(int(le.Uint32(out[optional+headersSizeAt:])), len(out))
	memoryEnd := uint32(0)
	for _, s := range f.Sections {
		memoryEnd = max(memoryEnd, s.VirtualAddress+s.VirtualSize)
		headersEnd = min(headersEnd, int(s.Offset))
	}
	initialized := le.Uint32(out[optional+initializedDataAt:])
	parts := []struct {
		name string
		data []byte
	}{
		{".osrel", []byte(p.OSRelease)}, {".cmdline", []byte(p.Cmdline)}, {".uname", []byte(p.Uname)},
		{".initrd", p.Initrd}, {".linux", p.Kernel},
	}
	if at := table + (count+len(parts))*sectionHeader; at > headersEnd {
		return nil, fmt.Errorf("the stub has no room for %d more sections: its headers end at %d and would need %d", len(parts), headersEnd, at)
	}
	up := func(n, to uint32) uint32 { return (n + to - 1) / to * to }
	for i, part := range parts {
		if int64(len(out))+int64(len(part.data)) > 1<<31-1 {
			return nil, errors.New("the image would have more than 2 GB, which firmware does not load")
		}
		out = append(out, make([]byte, up(uint32(len(out)), fileAlign)-uint32(len(out)))...)
		size, address := uint32(len(part.data)), up(memoryEnd, memoryAlign)
		raw := up(uint32(len(out))+size, max(fileAlign, cdSector)) - uint32(len(out))
		h := out[table+(count+i)*sectionHeader:][:sectionHeader]
		clear(h)
		copy(h, part.name)
		le.PutUint32(h[8:], size)
		le.PutUint32(h[12:], address)
		le.PutUint32(h[16:], raw)
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], initializedDataFlag|readFlag)
		out = append(append(out, part.data...), make([]byte, raw-size)...)
		memoryEnd, initialized = address+size, initialized+raw
	}
	le.PutUint16(out[coff+sectionsAt:], uint16(count+len(parts)))
	le.PutUint32(out[optional+initializedDataAt:], initialized)
	le.PutUint32(out[optional+imageSizeAt:], up(memoryEnd, memoryAlign))
	le.PutUint32(out[optional+checksumAt:], 0) // of no use to UEFI, and wrong now
	return out, nil
}
