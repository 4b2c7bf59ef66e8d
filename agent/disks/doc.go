// Package disks does on a node what the brain and the runner want of disks: it carries out the operations of
// package takeover through storage/reserve over all paths of a disk, mounts a volume before its container starts,
// unmounts it before the container's end is reported, and tells what it sees.
//
// What it promises:
//   - A disk is found by its worldwide name at each claim anew, never by a device's name of before.
//   - A key is not registered for a new claim as long as anything on this machine still has the disk open from an
//     earlier one: old pages would be written under the new key.
//   - A volume is mounted only by Attach, which the runner calls after the brain let the instance run, and only if the
//     file system has the UUID that the ledger says.
//   - Detach returns without error only when the file system has ended on this node.
//   - A file system that ended by itself (ext4 read-only after an error, xfs shut down) is told to Config.Lost, once.
//
// It never unregisters: a key stays behind when its owner stops (package takeover says why).
package disks
