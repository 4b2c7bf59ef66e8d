// Package target makes a machine of the lab a storage array: the kernel's iSCSI target over the machine's disks, as
// package san describes it.
//
//	file of the lab <- virtio <- device-mapper (delay) <- LIO's block backstore <- LUN <- both portals
//
// The kernel writes the registrations with APTPL of each LUN to a file, and leaves it to user space to read them back
// when the target starts (rtslib does it where there is targetcli). Restore does that here, and gives each initiator
// that has one an explicit ACL: without that the kernel would keep the registration aside until the initiator logs
// in again, so that nobody could see or preempt the key of one that is gone.
package target
