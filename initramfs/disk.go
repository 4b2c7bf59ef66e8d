package initramfs

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skein-os/skein/images/disk"
	"github.com/skein-os/skein/images/secureboot"
	"github.com/skein-os/skein/images/uki"
)

// Formats of one image that boots from disks, sticks and CDs by BIOS and UEFI (package images/disk).
const (
	FormatRaw   Format = "raw"   // to be written onto a disk or stick as it is
	FormatISO   Format = "iso"   // the same bytes, under the name that tools for CDs and remote media want
	FormatQCOW2 Format = "qcow2" // the same disk for QEMU, without its empty parts
)

// Formats are all there are.
var Formats = []Format{FormatLab, FormatPXE, FormatUKI, FormatRaw, FormatISO, FormatQCOW2}

// Names of files in the output folder.
const (
	RawName   = "skein.img"
	ISOName   = "skein.iso"
	QCOW2Name = "skein.qcow2"
	// SYSLINUX, which boots the image by BIOS.
	MBRName      = "isohdpfx.bin"
	ISOLINUXName = "isolinux.bin"
	LDLINUXName  = "ldlinux.c32"

	isolinuxLicence, syslinuxLicence = "isolinux.copyright", "syslinux-common.copyright"
)

// BIOSNames are the files that disk.BIOS is made of.
var biosNames = []string{MBRName, ISOLINUXName, LDLINUXName, isolinuxLicence, syslinuxLicence}

func init() {
	for name, from := range map[string]struct{ pkg, path string }{
		MBRName:         {"isolinux", "/usr/lib/ISOLINUX/isohdpfx.bin"},
		ISOLINUXName:    {"isolinux", "/usr/lib/ISOLINUX/isolinux.bin"},
		isolinuxLicence: {"isolinux", "/usr/share/doc/isolinux/copyright"},
		LDLINUXName:     {"syslinux-common", "/usr/lib/syslinux/modules/bios/ldlinux.c32"},
		syslinuxLicence: {"syslinux-common", "/usr/share/doc/syslinux-common/copyright"},
	} {
		foreign[name] = from
	}
}

// diskNames are the files of the disk formats among those wanted.
func diskNames(formats []Format) []string {
	var names []string
	for format, name := range map[Format]string{FormatRaw: RawName, FormatISO: ISOName, FormatQCOW2: QCOW2Name} {
		if slices.Contains(formats, format) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > 0 {
		names = append(slices.Clone(biosNames), names...)
	}
	return names
}

// cmdline is what kernels of images are told: Cmdline and what the site has set.
func (o *Options) cmdline() (string, error) {
	all := []string{Cmdline}
	for _, s := range o.Set {
		key, _, ok := strings.Cut(s, "=")
		if !ok || key == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\'' }) {
			return "", fmt.Errorf("%q cannot be set in an image: want KEY=VALUE without spaces and quotes", s)
		}
		all = append(all, s)
	}
	text := strings.Join(all, " ")
	// COMMAND_LINE_SIZE of x86 is 2048; what is over it the kernel drops without a word.
	if len(text) > 2047 {
		return "", fmt.Errorf("the kernel's command line would have %d bytes: at most 2047", len(text))
	}
	return text, nil
}

// unified makes the unified image, signed if the options say so.
func (o *Options) unified(stub, kernel, archive []byte, release string) ([]byte, error) {
	cmdline, err := o.cmdline()
	if err != nil {
		return nil, err
	}
	image, err := uki.Join(uki.Parts{Stub: stub, Kernel: kernel, Initrd: archive, Cmdline: cmdline, Uname: release,
		OSRelease: "ID=skein\nNAME=Skein\nPRETTY_NAME=\"Skein\"\n"})
	if err != nil || o.Keys == nil {
		return image, err
	}
	return o.Keys.Sign(image)
}

// diskImage makes the image for disks, sticks and CDs, with the notices of what is in it and the manifest.
func (o *Options) diskImage(ctx context.Context, unified []byte, m Manifest) ([]byte, error) {
	cmdline, err := o.cmdline()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, name := range append(slices.Clone(biosNames), stubLicence) {
		if files[name], err = o.foreign(ctx, name); err != nil {
			return nil, err
		}
	}
	m.Files, m.Input = nil, "" // they tell of the image itself, and of what else was built with it
	manifest, err := m.json()
	if err != nil {
		return nil, err
	}
	p := disk.Parts{Unified: unified, Cmdline: cmdline,
		BIOS: disk.BIOS{MBR: files[MBRName], ISOLINUX: files[ISOLINUXName], LDLINUX: files[LDLINUXName]},
		CD:   []disk.File{{Name: "MANIFEST.JSN", Data: manifest}},
		ESP:  []disk.File{{Name: "skein/manifest.json", Data: manifest}},
	}
	for short, name := range map[string]string{"ISOLINUX.TXT": isolinuxLicence, "SYSLINUX.TXT": syslinuxLicence, "STUB.TXT": stubLicence} {
		p.CD = append(p.CD, disk.File{Name: short, Data: files[name]})
		p.ESP = append(p.ESP, disk.File{Name: "skein/" + name, Data: files[name]})
	}
	if o.Keys != nil {
		for _, f := range o.Keys.Enrolment() {
			p.ESP = append(p.ESP, disk.File{Name: "loader/keys/skein/" + f.Name, Data: f.Data})
		}
	}
	for _, all := range [][]disk.File{p.CD, p.ESP} {
		slices.SortFunc(all, func(a, b disk.File) int { return strings.Compare(a.Name, b.Name) })
	}
	return disk.Join(p)
}

// addForeign lists the packages whose files lie beside the archive, with the names of their notices.
func (o *Options) addForeign(ctx context.Context, m *Manifest) error {
	for _, name := range o.outputNames() {
		if !strings.HasSuffix(name, ".copyright") {
			continue
		}
		p, err := o.Archive.Fetch(ctx, foreign[name].pkg)
		if err != nil {
			return err
		}
		m.Packages = append(m.Packages, PackageEntry{Package: p, Licence: name})
	}
	slices.SortFunc(m.Packages, func(a, b PackageEntry) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// qcow2 is the disk image for QEMU.
func qcow2(raw []byte) ([]byte, error) {
	var b bytes.Buffer
	err := disk.WriteQCOW2(&b, raw)
	return b.Bytes(), err
}

// LoadBIOS reads what boots by BIOS from the folder of an image.
func LoadBIOS(folder string, read func(string) ([]byte, error)) (b disk.BIOS, err error) {
	for name, to := range map[string]*[]byte{MBRName: &b.MBR, ISOLINUXName: &b.ISOLINUX, LDLINUXName: &b.LDLINUX} {
		if *to, err = read(filepath.Join(folder, name)); err != nil {
			return b, err
		}
	}
	return b, nil
}

// keysSum is what the keys are to the output.
func keysSum(k *secureboot.Keys) string {
	if k == nil {
		return ""
	}
	return sum(k.Signer.Raw)
}
