// Package secureboot makes a site's own keys for UEFI Secure Boot, signs programs for UEFI with them, and makes the files
// that firmware takes the keys from.
//
// There are three: the platform key PK, which owns the machine; KEK, which may change what is trusted; and db, which
// signs what the machine starts. Only db's private key is needed to build images.
//
// Signatures carry no time, so that the same keys and the same program give the same bytes.
//
// Sources: UEFI specification 2.10, 8.2.2 (authenticated variables) and 32 (Secure Boot); Microsoft's "Windows
// Authenticode Portable Executable Signature Format".
package secureboot
