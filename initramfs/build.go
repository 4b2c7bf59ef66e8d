package initramfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/skein-os/skein/images/secureboot"
	"github.com/skein-os/skein/initramfs/debian"
	"github.com/skein-os/skein/initramfs/kernel"
	"github.com/skein-os/skein/initramfs/tree"
	"github.com/skein-os/skein/qemu/san"
)

// Format names a set of output files.
type Format string

// The formats.
const (
	// FormatLab is for emulators: vmlinux and an lz4 archive, the fastest to boot there.
	FormatLab Format = "lab"
	// FormatPXE is for real machines: bzImage and a zstd archive, the smallest to transfer.
	FormatPXE Format = "pxe"
	// FormatUKI is one program for UEFI with kernel and archive in it.
	FormatUKI Format = "uki"
)

// Names of files in the output folder.
const (
	VmlinuxName = "vmlinux"
	BzImageName = "bzImage"
	LZ4Name     = "initramfs.cpio.lz4"
	ZstdName    = "initramfs.cpio.zst"
	// SANName is the archive that the lab's storage array boots, with the nodes' kernel.
	SANName      = "san.cpio.lz4"
	ManifestName = "manifest.json"
	// UKIName is the unified image, StubName the part of it that is systemd's: with it the image can be made anew
	// around another command line.
	UKIName  = "skein.efi"
	StubName = "linuxx64.efi.stub"
	// IPXEBIOSName and IPXEUEFIName are iPXE for firmware that loads by TFTP.
	IPXEBIOSName = "undionly.kpxe"
	IPXEUEFIName = "snponly.efi"
	// Separate files of others, with the words of their authors.
	stubLicence, ipxeLicence = "systemd-boot-efi.copyright", "ipxe.copyright"
)

// Cmdline is what the kernel in a unified image is told: both consoles, and no waiting after a panic.
const Cmdline = "console=tty0 console=ttyS0,115200 quiet panic=-1"

// foreign are the files that are taken out of packages as they are.
var foreign = map[string]struct{ pkg, path string }{
	StubName:     {"systemd-boot-efi", "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"},
	stubLicence:  {"systemd-boot-efi", "/usr/share/doc/systemd-boot-efi/copyright"},
	IPXEBIOSName: {"ipxe", "/usr/lib/ipxe/undionly.kpxe"},
	IPXEUEFIName: {"ipxe", "/usr/lib/ipxe/snponly.efi"},
	ipxeLicence:  {"ipxe", "/usr/share/doc/ipxe/copyright"},
}

// Options of a build.
type Options struct {
	// Archive gives the packages.
	Archive *debian.Archive
	// Skeind is the path of the node's program, which must be static.
	Skeind string
	// SAN is the path of the program of the lab's storage array (qemu/san/init); empty: the image has no array.
	SAN string
	// Out is the output folder; it is made if need be.
	Out string
	// Formats are what to write.
	Formats []Format
	// Profile names the set of modules; "virtual" if empty.
	Profile string
	// Modules are wanted on top of the profile's.
	Modules []string
	// Tools are the C programs to put in; DefaultTools if nil.
	Tools []string
	// Set are words for the kernel's command line of the unified image and the disk image, KEY=VALUE. All who have the
	// image can read them.
	Set []string
	// Keys sign the unified image, also in the disk image; nil: it is not signed.
	Keys *secureboot.Keys
	// Log gets progress, a line each.
	Log io.Writer
}

// DefaultTools are put in if Options.Tools is nil.
var DefaultTools = []string{
	"crun", "iscsid", "iscsiadm", "mke2fs", "e2fsck", "resize2fs", "mkfs.xfs", "xfs_repair",
	"mkfs.gfs2", "fsck.gfs2", "gfs2_grow", "gfs2_jadd",
}

// layout is part of the input sum: raise it when this package makes other bytes of the same input.
const layout = "skein initramfs 3"

// Build makes the image and returns its manifest. If the output folder already has the image of the
// same input, whole, it is left as it is and built is false.
func Build(ctx context.Context, o Options) (m Manifest, built bool, err error) {
	if o.Profile == "" {
		o.Profile = "virtual"
	}
	if o.Tools == nil {
		o.Tools = DefaultTools
	}
	if _, err := o.cmdline(); err != nil {
		return m, false, err
	}
	if len(o.Formats) == 0 {
		return m, false, errors.New("no format wanted: lab, pxe, uki, raw, iso or qcow2")
	}
	skeind, err := readProgram(o.Skeind)
	if err != nil {
		return m, false, err
	}
	var array []byte
	if o.SAN != "" {
		if array, err = readProgram(o.SAN); err != nil {
			return m, false, err
		}
	}
	input, err := inputSum(o, skeind, array)
	if err != nil {
		return m, false, err
	}
	if m, ok := upToDate(o.Out, input, o.outputNames()); ok {
		return m, false, nil
	}
	c, err := gather(ctx, o, nodeSteps)
	if err != nil {
		return m, false, err
	}
	archive, m, err := c.seal("skeind", skeind, o.Profile)
	if err != nil {
		return m, false, err
	}
	m.Input = input
	return m, true, writeOut(ctx, o, c, archive, array, &m)
}

func readProgram(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read a machine's program: %w", err)
	}
	if err := checkStatic(data); err != nil {
		return nil, fmt.Errorf("%s cannot be the first process: %w", path, err)
	}
	return data, nil
}

// sanArchive is what the lab's storage array boots.
func sanArchive(ctx context.Context, o Options, program []byte) ([]byte, error) {
	o.Profile, o.Modules, o.Tools = "san", nil, san.Tools
	c, err := gather(ctx, o, sanSteps)
	if err != nil {
		return nil, err
	}
	archive, _, err := c.seal("skein-san", program, o.Profile)
	return archive, err
}

// writeOut writes the files of the formats and then the manifest.
func writeOut(ctx context.Context, o Options, c *content, archive, array []byte, m *Manifest) error {
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	// The old manifest goes first: a build that is cut off half way leaves a folder that is seen as stale.
	if err := os.Remove(filepath.Join(o.Out, ManifestName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	packed := func(kind string, archive []byte) ([]byte, error) {
		var b bytes.Buffer
		err := debian.Step(o.Log, "compressing the archive ("+kind+")", func() error { return compress(&b, kind, archive) })
		return b.Bytes(), err
	}
	if err := o.addForeign(ctx, m); err != nil {
		return err
	}
	var zst, unified, raw []byte
	for _, name := range o.outputNames() {
		if err := ctx.Err(); err != nil {
			return err
		}
		var data []byte
		var err error
		switch name {
		case StubName, stubLicence, IPXEBIOSName, IPXEUEFIName, ipxeLicence,
			MBRName, ISOLINUXName, LDLINUXName, isolinuxLicence, syslinuxLicence:
			data, err = o.foreign(ctx, name)
		case UKIName:
			var stub []byte
			if stub, err = o.foreign(ctx, StubName); err == nil {
				data, err = o.unified(stub, c.bzImage, zst, c.kernel)
				unified = data
			}
		case RawName, ISOName, QCOW2Name:
			if raw == nil {
				err = debian.Step(o.Log, "laying out the disk image", func() (err error) { raw, err = o.diskImage(ctx, unified, *m); return err })
			}
			if data = raw; err == nil && name == QCOW2Name {
				data, err = qcow2(raw)
			}
		case BzImageName:
			data = c.bzImage
		case VmlinuxName:
			err = debian.Step(o.Log, "unpacking the kernel", func() (err error) { data, err = kernel.Vmlinux(c.bzImage); return err })
		case LZ4Name:
			data, err = packed("lz4", archive)
		case SANName:
			if data, err = sanArchive(ctx, o, array); err == nil {
				data, err = packed("lz4", data)
			}
		case ZstdName:
			data, err = packed("zst", archive)
			zst = data
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := tree.ReplaceFile(filepath.Join(o.Out, name), data); err != nil {
			return err
		}
		m.Files = append(m.Files, FileEntry{Name: name, Size: int64(len(data)), SHA256: sum(data)})
	}
	data, err := m.json()
	if err != nil {
		return err
	}
	return tree.ReplaceFile(filepath.Join(o.Out, ManifestName), data)
}

// foreign reads a file out of its package.
func (o *Options) foreign(ctx context.Context, name string) ([]byte, error) {
	from := foreign[name]
	p, err := o.Archive.Fetch(ctx, from.pkg)
	if err != nil {
		return nil, err
	}
	path, err := debian.Resolve(p.Root, from.path)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func (o *Options) outputNames() []string {
	var names []string
	formats := o.Formats
	disks := diskNames(formats)
	withUKI := slices.Contains(formats, FormatUKI) || len(disks) > 0
	if slices.Contains(formats, FormatPXE) || withUKI {
		names = append(names, BzImageName, ZstdName)
	}
	if slices.Contains(formats, FormatPXE) {
		names = append(names, IPXEBIOSName, IPXEUEFIName, ipxeLicence)
	}
	if withUKI {
		names = append(names, StubName, stubLicence, UKIName)
	}
	names = append(names, disks...)
	if slices.Contains(formats, FormatLab) {
		names = append(names, VmlinuxName, LZ4Name)
		if o.SAN != "" {
			names = append(names, SANName)
		}
	}
	return names
}

// inputSum is over all that decides the output.
func inputSum(o Options, skeind, array []byte) (string, error) {
	modules, err := kernel.Profile(o.Profile)
	if err != nil {
		return "", err
	}
	later, err := kernel.OnDemand(o.Profile)
	if err != nil {
		return "", err
	}
	if _, err := toolPackages(o.Tools); err != nil {
		return "", err
	}
	data, err := json.Marshal([]any{layout, sum(skeind), o.Archive.Pins, o.Profile, modules, later, o.Modules, o.Tools, o.outputNames(),
		sum(array), san.Modules, san.Tools, o.Set, keysSum(o.Keys)})
	if err != nil {
		return "", err
	}
	return sum(data), nil
}

// upToDate reads the files again: a file that somebody cut short must not be booted.
func upToDate(out, input string, names []string) (Manifest, bool) {
	var m Manifest
	data, err := os.ReadFile(filepath.Join(out, ManifestName))
	if err != nil || json.Unmarshal(data, &m) != nil || m.Input != input {
		return Manifest{}, false
	}
	have := map[string]FileEntry{}
	for _, f := range m.Files {
		have[f.Name] = f
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || sum(data) != have[name].SHA256 {
			return Manifest{}, false
		}
	}
	return m, true
}

// checkStatic: the first process starts before anything could help it find a library.
func checkStatic(data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("it is for %s, want amd64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is not static: build it with CGO_ENABLED=0")
		}
	}
	return nil
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
