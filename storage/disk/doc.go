// Package disk shows the disks that the kernel has, each with all of its paths, and changes what the kernel has of
// them: looks for LUNs, reads a size again, lets a path go.
//
// A disk is its WWN (the kernel's wwid: NAA, EUI or T10 name of VPD page 0x83, SPC-4 7.8.6). A name such as sdb says
// nothing: the kernel gives it to another LUN as soon as it is free, and a target may put another LUN under an
// old number without a word. So all that changes something takes a Path as it was seen and refuses with
// ErrChanged when device number, address or wwid are not the same now. Rescan makes the kernel ask the device
// again first: what sysfs shows is what the device said when it was last looked at.
//
// Disks without any identity are listed with an empty WWN, one path each, and are never taken for one another.
package disk

import "errors"

// ErrChanged: what is under this name now is not the path that was meant. Scan again.
var ErrChanged = errors.New("another device is there now")

// ErrBusy: a map, a file system or a program holds the device.
var ErrBusy = errors.New("the device is in use")

// Disk is what one WWN is to this machine.
type Disk struct {
	WWN, Serial, Vendor, Model string
	Size                       int64 // bytes, the smallest that a path tells: a larger one is not there on all paths yet
	BlockSize                  int   // logical, bytes
	Paths                      []Path
}

// Path is one block device of a disk.
type Path struct {
	Name      string // sdb: for people; never to find it again
	Dev       string // major:minor
	HCTL      string // SCSI address host:channel:target:lun; empty for virtio and NVMe
	Transport string // iscsi, fc, sas, nvme, virtio; scsi if none of these
	Portal    string // iscsi: address:port logged in to; nvme: address; else empty
	Target    string // iscsi: IQN; fc: port name; nvme: subsystem NQN
	State     string // as the kernel has it: running, blocked, transport-offline, live ...
	WWN       string
	Size      int64 // bytes
}
