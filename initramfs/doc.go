// Package initramfs builds what a Skein machine boots: a kernel, and one archive that holds skeind as
// /init, the kernel's modules with their load order, and the few C programs that a node runs (crun).
// Everything but skeind comes from Debian packages.
//
// Invariants:
//   - Same input, same bytes: the archive is sorted, without times, owners or inode numbers.
//   - The output folder is all of one build: files are replaced by rename, the manifest last, and it has
//     the sums of the others. An unchanged input is not built again.
//   - Nothing of the building machine gets in: no library, no name, no path, no resolver.
//   - Every package that went in is in the manifest with its version, SHA-256 and the place of its
//     licence texts; the texts are in the archive too, since what we hand out are copies of GPL programs.
package initramfs
