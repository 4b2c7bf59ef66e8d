// Package kernel takes from Debian's kernel package what a machine needs to boot: the unpacked ELF
// kernel for emulators, and the wanted modules with everything they depend on, in load order.
//
// There is no modprobe, udev or depmod on a node: what is not in the load list is never loaded. So a
// wanted name that the kernel neither has as a module nor built in fails the build, and what modprobe
// would load by a soft dependency (libcrc32c needs crc32c by name) is in the list before its user.
//
// Modules are taken as Debian ships them: without debug information, and with Debian's signature,
// which stripping would break and which a machine with Secure Boot insists on.
package kernel
