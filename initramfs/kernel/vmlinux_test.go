package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const testKernel = "\x7fELF the kernel itself, which says the same again and again and again and again"

// bzImage wraps a payload as the kernel's build does: setup sectors, then code, then the payload.
func bzImage(payload []byte) []byte {
	const sects, before = 3, 100 // setup sectors, and bytes of decompressor in front of the payload
	b := make([]byte, (sects+1)*512+before)
	b[offSetupSects] = sects
	copy(b[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], 0x20f)
	binary.LittleEndian.PutUint32(b[offPayload:], before)
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "decompressor's data"...)
}

// withSize appends the unpacked size, as scripts/Makefile.lib does for all but gzip.
func withSize(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, uint32(len(testKernel)))
}

func pack(t testing.TB, open func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var b bytes.Buffer
	w := open(&b)
	if _, err := io.WriteString(w, testKernel); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func payloads(t testing.TB) map[string][]byte {
	return map[string][]byte{
		"zstd": withSize(pack(t, func(w io.Writer) io.WriteCloser {
			z, err := zstd.NewWriter(w)
			if err != nil {
				t.Fatal(err)
			}
			return z
		})),
		"gzip": pack(t, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"lz4": withSize(pack(t, func(w io.Writer) io.WriteCloser {
			z := lz4.NewWriter(w)
			if err := z.Apply(lz4.LegacyOption(true)); err != nil {
				t.Fatal(err)
			}
			return z
		})),
		"none": []byte(testKernel),
	}
}

func TestVmlinux(t *testing.T) {
	for name, payload := range payloads(t) {
		got, err := Vmlinux(bzImage(payload))
		if err != nil || string(got) != testKernel {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

// Debian's kernel is packed by xz with the x86 filter, for which Go has no packer: the real one is tried
// where an image has been built.
func TestVmlinuxDebian(t *testing.T) {
	dir := os.Getenv("SKEIN_IMAGE_DIR")
	if dir == "" {
		t.Skip("SKEIN_IMAGE_DIR is not set: no built image")
	}
	image, err := os.ReadFile(filepath.Join(dir, "bzImage"))
	if err != nil {
		t.Skip(err)
	}
	got, err := Vmlinux(image)
	if err != nil || len(got) < 20<<20 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestVmlinuxRefuses(t *testing.T) {
	good := bzImage(payloads(t)["zstd"])
	old := bytes.Clone(good)
	binary.LittleEndian.PutUint16(old[offVersion:], 0x206)
	long := bytes.Clone(good)
	binary.LittleEndian.PutUint32(long[offPayloadLength:], 0xffffffff)
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"empty":      {nil, "not a bzImage"},
		"ELF":        {[]byte(testKernel + strings.Repeat("x", 4096)), "not a bzImage"},
		"old":        {old, "boot protocol 2.06"},
		"cut":        {good[:len(good)-60], "cut short"},
		"long":       {long, "cut short"},
		"unknown":    {bzImage([]byte("whatever it is")), "unknown way"},
		"not kernel": {bzImage(withSize([]byte("\x28\xb5\x2f\xfd\x00\x00\x01\x00\x00"))), "does not hold an ELF"},
	} {
		if _, err := Vmlinux(test.data); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, test.want)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	for _, p := range payloads(f) {
		f.Add(bzImage(p))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = Vmlinux(data)
	})
}
