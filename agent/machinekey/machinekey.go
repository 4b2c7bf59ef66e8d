// Package machinekey keeps the key of a machine that has no disk over its reboots: in a variable of its UEFI firmware.
//
// It promises: a key is kept for one cluster, whose CA it names; a machine that is told of another cluster finds none.
// What was written is read back before it counts as kept. A machine whose firmware has no such variables keeps none,
// which is no error.
//
// What it proves: that who asks has the key, which whoever was root on the machine, or has its firmware's flash in his
// hands, can copy. A TPM would not give it away; Skein does not use one yet.
//
// When things fail: nothing is kept, and the machine is a stranger at its next boot, that an operator has to approve.
package machinekey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/modules"
)

const (
	// firmware is there on a machine that was started by UEFI.
	firmware = "/sys/firmware/efi"
	// variables is where the kernel shows the firmware's variables (Documentation/filesystems/efivarfs.rst).
	variables = firmware + "/efivars"
	// variable is the name and Skein's own vendor GUID.
	variable = "SkeinKey-6d0f3c52-8a1e-4f57-b5c9-2f7be1a4d906"
	magic    = "SkeinKey1"
	// attributes: non-volatile, for boot services and at run time (UEFI 2.10, 8.2).
	attributes = 0x7
	// immutable is FS_IMMUTABLE_FL (linux/fs.h).
	immutable = 0x10
	// mostBytes bounds what is read.
	mostBytes = 4096
)

// Store is the place of a machine's key.
type Store struct{ dir string }

// Open finds the firmware's variables. It returns nil if the machine has none.
func Open() (*Store, error) {
	if _, err := os.Stat(firmware); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err := modules.Load("efivarfs"); err != nil {
		return nil, fmt.Errorf("the firmware's variables: %w", err)
	}
	err := unix.Mount("efivarfs", variables, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EBUSY) { // busy: it is mounted there already
		return nil, fmt.Errorf("mount the firmware's variables: %w", err)
	}
	// A firmware that does not let them be written at run time has the kernel show none, or only for reading.
	if unix.Access(variables, unix.W_OK) != nil {
		return nil, nil
	}
	return &Store{variables}, nil
}

func (s *Store) path() string { return filepath.Join(s.dir, variable) }

// Read returns the key that is kept for the cluster whose CA has this fingerprint (pki.KeyHash), nil if there is none.
func (s *Store) Read(ca string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the key in the firmware's variable %s: %w", variable, err)
	}
	of, key, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("the firmware's variable %s: %w", variable, err)
	}
	if of != ca {
		return nil, nil
	}
	return key, nil
}

// Write keeps a key for the cluster whose CA has this fingerprint, in place of another one.
func (s *Store) Write(ca string, key *ecdsa.PrivateKey) error {
	fail := func(err error) error {
		return fmt.Errorf("keep the key in the firmware's variable %s: %w", variable, err)
	}
	data, err := encode(ca, key)
	if err != nil {
		return fail(err)
	}
	if have, err := os.ReadFile(s.path()); err == nil && bytes.Equal(have, data) {
		return nil // the flash wears
	}
	if err := s.changeable(); err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(s.path(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	_, err = f.Write(data) // the kernel wants all of it in one call
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	have, err := os.ReadFile(s.path())
	if err != nil {
		return fail(err)
	}
	if !bytes.Equal(have, data) {
		return fail(errors.New("what the firmware gives back is not what was written"))
	}
	return nil
}

// changeable takes the kernel's protection off the variable: it has one from accidental removal, as there is firmware
// that does not start without some of its variables.
func (s *Store) changeable() error {
	f, err := os.Open(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&immutable == 0 {
		return nil // not protected, or no file system that knows protection: the write tells
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
}

// encode writes attributes, which come first in efivarfs, magic, the CA's fingerprint and the key (PKCS #8).
func encode(ca string, key *ecdsa.PrivateKey) ([]byte, error) {
	sum, err := hex.DecodeString(ca)
	if err != nil || len(sum) != sha256.Size {
		return nil, fmt.Errorf("%q is no fingerprint of a CA", ca)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := binary.LittleEndian.AppendUint32(nil, attributes)
	return append(append(append(out, magic...), sum...), der...), nil
}

// decode reads what encode wrote: whoever had the machine before may have left anything.
func decode(data []byte) (ca string, key *ecdsa.PrivateKey, err error) {
	const head = 4 + len(magic) + sha256.Size
	if len(data) > mostBytes || len(data) < head || string(data[4:4+len(magic)]) != magic {
		return "", nil, errors.New("it holds no key of Skein")
	}
	k, err := x509.ParsePKCS8PrivateKey(data[head:])
	if err != nil {
		return "", nil, fmt.Errorf("its key is not readable: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return "", nil, errors.New("its key is not ECDSA")
	}
	return hex.EncodeToString(data[4+len(magic) : head]), key, nil
}
