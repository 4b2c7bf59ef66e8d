package initramfs

import (
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/u-root/mkuimage/cpio"

	"github.com/skein-os/skein/initramfs/tree"
)

// writeArchive writes the tree as a newc cpio archive, which is what the kernel unpacks into its first
// root (Documentation/driver-api/early-userspace/buffer-format.rst).
func writeArchive(w io.Writer, t *tree.Tree) error {
	rw := cpio.Newc.Writer(w)
	err := t.Walk(func(name string, e tree.Entry) error {
		r, err := record(strings.TrimPrefix(name, "/"), e)
		if err != nil {
			return err
		}
		return rw.WriteRecord(cpio.MakeReproducible(r))
	})
	if err != nil {
		return err
	}
	return cpio.WriteTrailer(rw)
}

func record(name string, e tree.Entry) (cpio.Record, error) {
	perm := uint64(e.Mode.Perm())
	if e.Mode&fs.ModeSticky != 0 {
		perm |= 0o1000
	}
	switch e.Mode.Type() {
	case 0:
		return cpio.StaticRecord(e.Data, cpio.Info{Name: name, Mode: cpio.S_IFREG | perm}), nil
	case fs.ModeDir:
		return cpio.Directory(name, perm), nil
	case fs.ModeSymlink:
		return cpio.Symlink(name, e.Target), nil
	case fs.ModeDevice | fs.ModeCharDevice:
		return cpio.CharDev(name, perm, uint64(e.Major), uint64(e.Minor)), nil
	default:
		return cpio.Record{}, fmt.Errorf("cannot put a file of kind %s into an initramfs", e.Mode)
	}
}

// compress writes data to w as the kernel reads it: lz4 in the legacy frame, the only one it knows, or
// zstd. One thread each: with several, block boundaries and so the
// bytes could depend on the machine.
func compress(w io.Writer, kind string, data []byte) error {
	var z io.WriteCloser
	switch kind {
	case "lz4":
		l := lz4.NewWriter(w)
		if err := l.Apply(lz4.LegacyOption(true), lz4.ConcurrencyOption(1), lz4.CompressionLevelOption(lz4.Fast)); err != nil {
			return err
		}
		z = l
	case "zst":
		enc, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
			zstd.WithWindowSize(zstdWindow), zstd.WithEncoderCRC(true))
		if err != nil {
			return err
		}
		z = enc
	default:
		return fmt.Errorf("no compression %q", kind)
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	return z.Close()
}

// zstdWindow in bytes: what zstd -19 uses, which every kernel with zstd support unpacks. A larger one
// packs better, but the kernel refuses what is over its own limit, at boot.
const zstdWindow = 8 << 20
