// Package debian takes programs and libraries out of Debian packages without installing them and
// without root.
//
// It keeps a private state of apt in a cache folder, with the sources, keys and proxies that the
// machine's own apt has, so whatever the machine trusts is trusted here and nothing else. Which version
// of which package is used is pinned, with its SHA-256, in pins.json. A package that is in the cache
// with the right sum is used without a network.
//
// Invariants:
//   - A file that Fetch returns has the pinned SHA-256, or it is a replacement: a pinned version that has
//     left the archive is replaced by the archive's current one, whose sum apt has checked against the
//     signed index. A replacement is said on the log and marked in Package.Replaces; it is never silent.
//   - Unpacking never writes outside its folder, whatever the archive's names and links say.
//   - A folder under unpacked/ is complete: it appears by one rename.
//
// When the network is missing, Fetch says which package was wanted and what apt said.
package debian
