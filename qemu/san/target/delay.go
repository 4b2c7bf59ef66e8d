package target

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sector = 512 // bytes, of device-mapper's tables whatever the disk's are

// delayed is a map over a disk that can hold back what goes through it (dm-delay).
type delayed struct {
	name    string
	below   string // MAJOR:MINOR of the disk
	disk    uint64 // sectors of the disk
	sectors uint64 // of the map
	device  string // the map's own
	delay   time.Duration
}

// newDelayed makes the map, without delay.
func newDelayed(name, disk string, size int64) (*delayed, error) {
	var st unix.Stat_t
	if err := unix.Stat(disk, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", disk, err)
	}
	d := &delayed{name: name, below: fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), disk: uint64(size / sector)}
	d.sectors = d.disk
	dev, err := d.call("make", unix.DM_DEV_CREATE, 0, "")
	if err != nil {
		return nil, err
	}
	d.device = fmt.Sprintf("/dev/dm-%d", unix.Minor(dev))
	return d, d.set(0)
}

// set puts another delay in place. What is held back goes on its way before that.
func (d *delayed) set(delay time.Duration) error {
	if _, err := d.call("load", unix.DM_TABLE_LOAD, 0, fmt.Sprintf("%s 0 %d", d.below, delay.Milliseconds())); err != nil {
		return err
	}
	if _, err := d.call("suspend", unix.DM_DEV_SUSPEND, unix.DM_SUSPEND_FLAG|unix.DM_SKIP_LOCKFS_FLAG, ""); err != nil {
		return err
	}
	if _, err := d.call("resume", unix.DM_DEV_SUSPEND, 0, ""); err != nil {
		return err
	}
	d.delay = delay
	return nil
}

// resize makes the map as large as that many bytes of the disk.
func (d *delayed) resize(size int64) error {
	if size <= 0 || size%sector != 0 || uint64(size/sector) > d.disk {
		return fmt.Errorf("%d bytes: must be a multiple of %d and at most %d", size, sector, d.disk*sector)
	}
	d.sectors = uint64(size / sector)
	return d.set(d.delay)
}

// call sends one command of device-mapper (linux/dm-ioctl.h) about the map; table is its line, if any.
func (d *delayed) call(what string, request uintptr, flags uint32, table string) (dev uint64, err error) {
	var buf [4096]byte
	h := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
	h.Version = [3]uint32{4, 0, 0}
	h.Data_size, h.Data_start, h.Flags = uint32(len(buf)), uint32(unsafe.Sizeof(*h)), flags
	copy(h.Name[:len(h.Name)-1], d.name)
	if table != "" {
		h.Target_count = 1
		spec := (*unix.DmTargetSpec)(unsafe.Pointer(&buf[h.Data_start]))
		spec.Length = d.sectors
		copy(spec.Target_type[:], "delay")
		copy(buf[uintptr(h.Data_start)+unsafe.Sizeof(*spec):], table+"\x00")
	}
	fd, err := unix.Open("/dev/mapper/control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("device-mapper: %w", err)
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(h))); errno != 0 {
		return 0, fmt.Errorf("%s the map %s: %w", what, d.name, errno)
	}
	return h.Dev, nil
}
