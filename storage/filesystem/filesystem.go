package filesystem

import (
	"context"
	"errors"
	"fmt"
)

// Volume is the file system that a volume is.
type Volume struct {
	Name string // the volume's, for the label and for messages
	Kind Kind   // Ext4 or XFS
	UUID string // it is known by this
}

// Driver does to a device what a node has to do with a volume. Linux is the one there is.
type Driver interface {
	// Identify tells what is on the device, as the disk has it now.
	Identify(device string) (Content, error)
	// Make makes the file system. overwrite is what Identify said is there, as the operator confirmed it; Empty
	// for nothing. If something else is there it is ErrForeign and nothing was written.
	Make(ctx context.Context, device string, v Volume, overwrite Kind) error
	// Mount checks and mounts the volume at the folder, which it makes.
	Mount(ctx context.Context, device string, v Volume, folder string) (Mounted, error)
	// Grow makes a mounted file system as large as its device, and returns its size in bytes.
	Grow(device, folder string) (int64, error)
	// Unmount writes what is dirty and unmounts. Lost: the disk is not ours any more; the folder is given up at
	// once, and if the file system is still in use by then it is ErrBusy.
	Unmount(folder string, lost bool) error
	// Health tells what is wrong with a mounted file system; nil if nothing is known to be.
	Health(folder string) error
	// Mounts are the folders below root where a file system is mounted, with their devices.
	Mounts(root string) (map[string]string, error)
}

// Mounted tells how a mount went, for an event.
type Mounted struct {
	Replayed bool // the journal had something to be replayed
	Checked  bool // e2fsck looked at all of it
}

var (
	// ErrForeign: something is on the device that is not the volume. Nothing was touched.
	ErrForeign = errors.New("the disk holds something else")
	// ErrBusy: the file system is still in use on this machine. As long as it is, its pages may be written.
	ErrBusy = errors.New("the file system is still in use on this node")
	// ErrDamaged: the check found what it does not repair by itself.
	ErrDamaged = errors.New("the file system is damaged")
)

// Matches tells whether the volume is what was found; the error says what was found instead.
func (v Volume) Matches(c Content) error {
	switch {
	case c.Kind != v.Kind:
		return fmt.Errorf("volume %s should be %s %s: %w, %s", v.Name, v.Kind, v.UUID, ErrForeign, c)
	case c.UUID != v.UUID:
		return fmt.Errorf("volume %s should be %s with UUID %s: %w, %s with UUID %s", v.Name, v.Kind, v.UUID, ErrForeign, c, c.UUID)
	}
	return nil
}

// label is the volume's name as far as the file system has room for it: it is for people, the UUID tells.
func (v Volume) label() string {
	most := 16
	if v.Kind == XFS {
		most = 12
	}
	return v.Name[:min(len(v.Name), most)]
}

// makeCommand is the program that makes the file system, with its arguments.
func makeCommand(device string, v Volume) ([]string, error) {
	switch v.Kind {
	case Ext4:
		// Tables are initialized now, not in the background when the first service writes. Nothing reserved for
		// root: the volume has one user. Old metadata is discarded by nobody: a LUN may be thin, or slow at it.
		return []string{"/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-U", v.UUID, "-L", v.label(), "-m", "0", "-O", "metadata_csum,64bit",
			"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", device}, nil
	case XFS:
		return []string{"/sbin/mkfs.xfs", "-q", "-f", "-K", "-m", "crc=1,uuid=" + v.UUID, "-L", v.label(), device}, nil
	}
	return nil, fmt.Errorf("volume %s: nobody here makes %s", v.Name, v.Kind)
}

// mountOptions of a kind: with ext4 an error ends writing, with xfs it does by itself.
func mountOptions(k Kind) string {
	if k == Ext4 {
		return "errors=remount-ro"
	}
	return ""
}

// checkResult reads e2fsck's exit code (e2fsck(8)): bits, 1 and 2 are repaired.
func checkResult(code int, output string) error {
	if code >= 0 && code&^3 == 0 {
		return nil
	}
	return fmt.Errorf("%w: e2fsck ended with %d: %q; stop the service, and repair it by hand or restore it", ErrDamaged, code, output)
}
