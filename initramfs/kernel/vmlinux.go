package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// Offsets in the setup header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	offSetupSects    = 0x1f1
	offMagic         = 0x202 // "HdrS"
	offVersion       = 0x206 // payload_* exist since protocol 2.08
	offPayload       = 0x248
	offPayloadLength = 0x24c
	setupHeaderEnd   = 0x250
)

const (
	maxVmlinux = 1 << 30   // bytes unpacked; a Debian kernel is 66 MB
	maxDict    = 256 << 20 // memory that a stream's header may ask for
)

var magics = []struct {
	name  string
	magic []byte
	open  func(io.Reader) (io.Reader, error)
}{
	{"xz", []byte("\xfd7zXZ\x00"), func(r io.Reader) (io.Reader, error) { return xz.NewReader(r, maxDict) }},
	{"zstd", []byte("\x28\xb5\x2f\xfd"), func(r io.Reader) (io.Reader, error) {
		return zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxDict), zstd.WithDecoderConcurrency(1))
	}},
	{"gzip", []byte("\x1f\x8b\x08"), func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"lz4", []byte("\x02\x21\x4c\x18"), func(r io.Reader) (io.Reader, error) { return lz4.NewReader(r), nil }},
	{"none", []byte("\x7fELF"), func(r io.Reader) (io.Reader, error) { return r, nil }},
}

// Vmlinux unpacks the ELF kernel out of a bzImage. Emulators boot it 3 s faster, since the guest need
// not decompress itself (QEMU enters it by its PVH note).
func Vmlinux(bzImage []byte) ([]byte, error) {
	if len(bzImage) < setupHeaderEnd || string(bzImage[offMagic:offMagic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage: no setup header")
	}
	if v := binary.LittleEndian.Uint16(bzImage[offVersion:]); v < 0x208 {
		return nil, fmt.Errorf("bzImage has boot protocol %d.%02d, want 2.08 or later", v>>8, v&0xff)
	}
	sects := uint64(bzImage[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + uint64(binary.LittleEndian.Uint32(bzImage[offPayload:]))
	length := uint64(binary.LittleEndian.Uint32(bzImage[offPayloadLength:]))
	if start+length > uint64(len(bzImage)) || length < 8 {
		return nil, fmt.Errorf("bzImage is cut short: payload at %d of %d bytes in a file of %d", start, length, len(bzImage))
	}
	payload := bzImage[start : start+length]
	for _, m := range magics {
		if !bytes.HasPrefix(payload, m.magic) {
			continue
		}
		// All but gzip have their unpacked size appended, 4 bytes little endian, which is not part of the stream.
		if m.name != "gzip" && m.name != "none" {
			payload = payload[:length-4]
		}
		r, err := m.open(bytes.NewReader(payload))
		if err != nil {
			return nil, fmt.Errorf("kernel's %s stream: %w", m.name, err)
		}
		out, err := io.ReadAll(io.LimitReader(r, maxVmlinux))
		if err != nil {
			return nil, fmt.Errorf("kernel's %s stream: %w", m.name, err)
		}
		if !bytes.HasPrefix(out, []byte("\x7fELF")) {
			return nil, fmt.Errorf("kernel's %s stream does not hold an ELF file", m.name)
		}
		return out, nil
	}
	return nil, fmt.Errorf("kernel is compressed in an unknown way (%x)", payload[:4])
}
