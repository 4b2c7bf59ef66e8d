// Package filesystem makes and mounts the file systems of volumes, and names what is on a device before
// anything is done to it.
//
// What it promises:
//   - Identify only reads. What it does not know is Foreign, never Empty: a device is Empty only if every byte of
//     the areas where signatures are kept is zero.
//   - Make refuses a device that is not Empty, unless the caller names what it is about to lose.
//   - Mount mounts only the file system of the UUID that it was told. It replays the journal first (the kernel's
//     mount does), and ext4 is checked by e2fsck before that if its superblock says that errors were found.
//   - ext4 goes read-only at the first error rather than on with a damaged tree; xfs shuts itself down. Neither
//     tells anybody: Health is to be asked.
//   - A device must not be in use elsewhere on this machine, and what an earlier mount left of it in the page cache
//     is dropped first: the disk may have been another node's meanwhile.
//
// That nobody else writes the disk is the caller's to make sure of, before Make and before Mount (package reserve).
package filesystem
