package san

import (
	"fmt"
	"strings"
)

const (
	// Machine is the array's name in the lab, and Number the last byte of its addresses.
	Machine = "san"
	Number  = 250
	// Target is its iSCSI name, Port that of its portals.
	Target = "iqn.2026-01.dev.skein:lab"
	Port   = 3260
	// PortalGroup is the tag of the one portal group.
	PortalGroup = 1
	// MaxLUNs is how many disks the machine has slots for.
	MaxLUNs = 16
	// StateDisk is the serial number by which the machine finds the disk with its own state.
	StateDisk = "state"
	// ControlPort is the name of the virtio-serial port for orders.
	ControlPort = "org.skein-os.oob"
	// AddressParameter is the kernel parameter by which the machine learns its addresses.
	AddressParameter = "san.addresses"
)

// Modules are what the machine needs of the kernel: drivers of its disks, network and port, the file system of its
// state, and the target. The checksum is for ext4, which looks for it by name and cannot load it by itself.
var Modules = []string{
	"virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "inet_diag", "tcp_diag",
	"crc32c_generic", "ext4", "dm_mod", "dm_delay", "target_core_mod", "target_core_iblock", "iscsi_target_mod",
}

// Tools are the programs it needs.
var Tools = []string{"mke2fs"}

// DiskSerial is the serial number by which the machine finds the disk below a LUN.
func DiskSerial(lun int) string { return fmt.Sprintf("lun%d", lun) }

// Serial is the unit serial number of a LUN: the same in every lab and at every start.
func Serial(lun int) string { return fmt.Sprintf("5ce1%04x-6c61-4200-8000-73616e000000", lun) }

// WWN is what a LUN is known by: LIO's company, and the first 25 hexadecimal digits of the serial number
// (spc_gen_naa_6h_vendor_specific in the kernel's drivers/target/target_core_spc.c).
func WWN(lun int) string {
	return "naa.6001405" + strings.ReplaceAll(Serial(lun), "-", "")[:25]
}
