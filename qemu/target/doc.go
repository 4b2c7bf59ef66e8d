// Package target is what runs on the lab's SAN machine: the kernel's own iSCSI target (LIO) with one LUN for each of
// the machine's disks, a portal on every network, and registrations that survive a loss of power if initiators ask for
// it (APTPL, SPC-4 5.13.5). It is for the lab: whoever reaches it may write.
//
// The kernel saves APTPL registrations to a file, and leaves it to others to read them back when the target
// is configured anew. Up does.
package target

// IQN is the name of the lab's target.
const IQN = "iqn.2026-01.dev.skein:lab"

// Port is iSCSI's (RFC 7143 §4.1), ControlPort is where the machine takes the lab's orders by HTTP.
const (
	Port        = 3260
	ControlPort = 8
)

// StateSerial is the serial number of the disk that keeps registrations, and LUNSerial that of a LUN's disk.
const StateSerial = "state"

// LUN is one disk of the target.
type LUN struct {
	Number int    `json:"lun"`
	Device string `json:"device"`
	Size   int64  `json:"size_bytes"`
	// Saved is how many registrations are kept for the next start.
	Saved int `json:"saved_registrations"`
}

// Status is what the machine answers on its control port.
type Status struct {
	IQN     string   `json:"iqn"`
	Portals []string `json:"portals"`
	LUNs    []LUN    `json:"luns"`
}
