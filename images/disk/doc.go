// Package disk writes the one image that boots machines from a disk, a USB stick and a CD, by BIOS and by UEFI: the
// same bytes for all of them.
//
//	sector 0        MBR: isohdpfx.bin, which loads isolinux.bin for a BIOS that booted from a disk or stick
//	sector 1        GPT with one partition, the ESP; its copy is in the last sectors
//	sector 64       ISO 9660 with El Torito: isolinux.bin for a BIOS that booted from a CD, the ESP for UEFI
//	from 1 MiB on   the ESP, FAT32: EFI/BOOT/BOOTX64.EFI is the unified image, and what else is given
//
// Kernel and archive are there once: ISO 9660's names for them, which ISOLINUX loads, point into the unified image in
// the ESP, whose sections begin at whole CD sectors.
//
// Nothing needs root or a mount, and the same input gives the same bytes: no clock, no random number; identities are
// derived from the content.
//
// Sources: UEFI specification 2.10 (5 GPT, 13.3 file systems), Microsoft's FAT32 specification of 2000, ECMA-119,
// the El Torito specification 1.0, and SYSLINUX's own isohybrid for what its MBR expects.
package disk

// Sizes in bytes.
const (
	sectorSize = 512
	cdSector   = 2048
	mebibyte   = 1 << 20
)

// File is a file in the image. A Name in the ESP may have folders, with slashes; one in ISO 9660 has none, and is
// eight upper-case letters, digits and underscores at most, a dot and three.
type File struct {
	Name string
	Data []byte
}
