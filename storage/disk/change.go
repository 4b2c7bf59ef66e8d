package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ScanHost makes the kernel look for LUNs on a SCSI host: all of them if lun is negative, else that number only.
// It does not wait for the disks' device files.
func (s Sys) ScanHost(host, lun int) error {
	what := "- - -"
	if lun >= 0 {
		what = fmt.Sprintf("- - %d", lun)
	}
	file := filepath.Join(s.Root, "class/scsi_host", fmt.Sprintf("host%d", host), "scan")
	if err := put(file, what); err != nil {
		return fmt.Errorf("look for LUNs on SCSI host %d: %w", host, err)
	}
	return nil
}

// Check tells whether a path is still what was seen; if not, the error is ErrChanged and says what is there now.
// It believes sysfs: after Rescan that is what the device says.
func (s Sys) Check(p Path) error {
	d, err := s.read(p.Name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && d == nil {
		return fmt.Errorf("path %s of disk %s has gone: %w", p.Name, p.WWN, ErrChanged)
	}
	if err != nil {
		return fmt.Errorf("look at path %s of disk %s: %w", p.Name, p.WWN, err)
	}
	if p.WWN == "" {
		return fmt.Errorf("path %s has no WWN to tell it by: %w", p.Name, ErrChanged)
	}
	if now := d.Paths[0]; now.WWN != p.WWN || now.Dev != p.Dev || now.HCTL != p.HCTL {
		return fmt.Errorf("path %s was disk %s (%s, %s) and is disk %s (%s, %s): %w", p.Name, p.WWN, p.Dev, p.HCTL, now.WWN, now.Dev, now.HCTL, ErrChanged)
	}
	return nil
}

// Rescan makes the kernel read identity and size of a path from the device again and returns the path as it is
// now. It is ErrChanged if another LUN answers.
func (s Sys) Rescan(p Path) (Path, error) {
	if err := s.Check(p); err != nil {
		return p, err
	}
	switch {
	case p.HCTL != "":
		// By address, not by name: the address cannot be given to another device under our hands, only deleted.
		if err := put(filepath.Join(s.Root, "bus/scsi/devices", p.HCTL, "rescan"), "1"); err != nil {
			return p, fmt.Errorf("read path %s of disk %s again: %w", p.Name, p.WWN, err)
		}
	case p.Transport == "nvme":
		err := put(filepath.Join(s.Root, "class/block", p.Name, "device/rescan_controller"), "1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a subsystem's controllers notice by themselves
			return p, fmt.Errorf("read path %s of disk %s again: %w", p.Name, p.WWN, err)
		}
	}
	if err := s.Check(p); err != nil {
		return p, err
	}
	d, err := s.read(p.Name)
	if err != nil {
		return p, err
	}
	if d == nil {
		return p, fmt.Errorf("path %s of disk %s has gone: %w", p.Name, p.WWN, ErrChanged)
	}
	return d.Paths[0], nil
}

// Remove lets the kernel forget a SCSI path. It refuses while something holds the device: a map that has it, a
// mounted file system, a program that opened it exclusively. A path that is gone already is no error.
func (s Sys) Remove(p Path) error {
	if p.HCTL == "" {
		return fmt.Errorf("path %s of disk %s is no SCSI device: only those can be removed", p.Name, p.WWN)
	}
	device := filepath.Join(s.Root, "bus/scsi/devices", p.HCTL)
	if _, err := os.Lstat(device); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.Check(p); err != nil {
		return err
	}
	if err := s.Free(p); err != nil {
		return err
	}
	if err := put(filepath.Join(device, "delete"), "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove path %s of disk %s: %w", p.Name, p.WWN, err)
	}
	return nil
}

// Free tells whether nothing holds the device of a path; the error is ErrBusy if something does.
func (s Sys) Free(p Path) error {
	holders, err := os.ReadDir(filepath.Join(s.Root, "class/block", p.Name, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(holders) > 0 {
		var names []string
		for _, h := range holders {
			names = append(names, h.Name())
		}
		return fmt.Errorf("path %s of disk %s is held by %s: %w", p.Name, p.WWN, strings.Join(names, ", "), ErrBusy)
	}
	fd, err := unix.Open(filepath.Join(s.Dev, p.Name), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("path %s of disk %s is mounted or opened exclusively: %w", p.Name, p.WWN, ErrBusy)
	}
	if err == nil { // a dead path cannot be opened, and nobody holds it then
		unix.Close(fd)
	}
	return nil
}

// put writes to a file of the kernel's; it never makes one.
func put(file, s string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(s)
	return errors.Join(err, f.Close())
}
