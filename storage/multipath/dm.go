package multipath

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	control    = "/dev/mapper/control"
	namePrefix = "skein-"
	uuidPrefix = "mpath-"
	targetType = "multipath"
)

// Name is the name of a disk's map: skein-, and the disk's worldwide name as far as it can be in a name.
func Name(wwn string) string {
	safe := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("._:-", r) {
			return r
		}
		return '_'
	}, wwn)
	if safe != wwn || len(safe) > 100 { // no two disks may have one name
		sum := sha256.Sum256([]byte(wwn))
		safe = safe[:min(len(safe), 80)] + "-" + hex.EncodeToString(sum[:6])
	}
	return namePrefix + safe
}

// uuid is what the kernel knows the map by. It is made of the name, in which all disks differ.
func uuid(wwn string) string { return uuidPrefix + strings.TrimPrefix(Name(wwn), namePrefix) }

// DM makes and changes maps by ioctls on /dev/mapper/control (Documentation/admin-guide/device-mapper and
// include/uapi/linux/dm-ioctl.h). It needs the modules dm-multipath and dm-service-time, and no udev.
type DM struct{}

// Live is a map that the kernel has.
type Live struct {
	Table  Table
	Status Status
	Device string // such as /dev/dm-0
	Opens  int    // who has it open: mounts, processes, other maps
}

// dmCall sends one command about the map of a disk. payload follows the header. It returns the header and what
// came behind it.
func dmCall(what string, request uintptr, wwn string, flags, targets uint32, payload []byte) (unix.DmIoctl, []byte, error) {
	buf := make([]byte, unix.SizeofDmIoctl+max(len(payload), 64<<10))
	h := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
	h.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	h.Data_size, h.Data_start, h.Flags, h.Target_count = uint32(len(buf)), unix.SizeofDmIoctl, flags, targets
	if request == unix.DM_DEV_CREATE {
		copy(h.Name[:], Name(wwn))
	}
	copy(h.Uuid[:], uuid(wwn))
	copy(buf[unix.SizeofDmIoctl:], payload)
	fd, err := unix.Open(control, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return *h, nil, fmt.Errorf("%s map %s: open %s: %w", what, Name(wwn), control, err)
	}
	defer unix.Close(fd)
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(h)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return *h, nil, fmt.Errorf("%s map %s: %w", what, Name(wwn), errno)
		}
		break
	}
	if h.Flags&unix.DM_BUFFER_FULL_FLAG != 0 {
		return *h, nil, fmt.Errorf("%s map %s: the kernel's answer is longer than %d bytes", what, Name(wwn), len(buf))
	}
	from, to := uint64(h.Data_start), uint64(h.Data_size)
	if from > to || to > uint64(len(buf)) { // an answer that is a header only ends before the structure's padding
		return *h, nil, nil
	}
	return *h, buf[from:to], nil
}

// line asks for the map's only target.
func (DM) line(wwn string, flags uint32) (h unix.DmIoctl, sectors uint64, text string, err error) {
	h, data, err := dmCall("look at", unix.DM_TABLE_STATUS, wwn, unix.DM_NOFLUSH_FLAG|flags, 0, nil)
	if err != nil || h.Target_count == 0 {
		return h, 0, "", err
	}
	if h.Target_count != 1 || len(data) < unix.SizeofDmTargetSpec {
		return h, 0, "", fmt.Errorf("map %s has %d targets, not one: it is not Skein's; remove it", Name(wwn), h.Target_count)
	}
	spec := (*unix.DmTargetSpec)(unsafe.Pointer(&data[0]))
	if kind := unix.ByteSliceToString(spec.Target_type[:]); kind != targetType {
		return h, 0, "", fmt.Errorf("map %s is of type %q, not %s: it is not Skein's; remove it", Name(wwn), kind, targetType)
	}
	return h, spec.Length, unix.ByteSliceToString(data[unix.SizeofDmTargetSpec:]), nil
}

// Find returns the map of a disk, nil if there is none. One that was left half changed, by an agent that died
// between two steps, is put right: what was loaded and never used is dropped, and it runs again.
func (d DM) Find(wwn string) (*Live, error) {
	h, _, err := dmCall("look at", unix.DM_DEV_STATUS, wwn, 0, 0, nil)
	if errors.Is(err, unix.ENXIO) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if h.Flags&unix.DM_INACTIVE_PRESENT_FLAG != 0 {
		if _, _, err := dmCall("drop the unused table of", unix.DM_TABLE_CLEAR, wwn, 0, 0, nil); err != nil {
			return nil, err
		}
	}
	if h.Flags&unix.DM_ACTIVE_PRESENT_FLAG == 0 { // made, and never loaded
		return nil, d.Remove(wwn)
	}
	if h.Flags&unix.DM_SUSPEND_FLAG != 0 {
		if err := d.resume(wwn); err != nil {
			return nil, err
		}
	}
	return d.look(wwn)
}

func (d DM) look(wwn string) (*Live, error) {
	h, sectors, text, err := d.line(wwn, unix.DM_STATUS_TABLE_FLAG)
	if err != nil {
		return nil, err
	}
	l := &Live{Opens: int(h.Open_count)}
	if l.Table, err = ParseTable(text); err != nil {
		return nil, err
	}
	l.Table.Sectors = sectors
	if l.Status, err = d.Status(wwn); err != nil {
		return nil, err
	}
	l.Device, err = deviceNode(h.Dev)
	return l, err
}

// Status asks how paths and groups are.
func (d DM) Status(wwn string) (Status, error) {
	_, _, text, err := d.line(wwn, 0)
	if err != nil {
		return Status{}, err
	}
	return ParseStatus(text)
}

// Load makes the map or puts another table in place. I/O waits meanwhile and is neither failed nor flushed; it takes
// as long as commands are under way on the old table's paths. It returns the device.
func (d DM) Load(wwn string, t Table) (string, error) {
	h, _, err := dmCall("look at", unix.DM_DEV_STATUS, wwn, 0, 0, nil)
	made := errors.Is(err, unix.ENXIO)
	if made {
		h, _, err = dmCall("make", unix.DM_DEV_CREATE, wwn, 0, 0, nil)
	}
	if err != nil {
		return "", err
	}
	err = d.replace(wwn, t, unix.DM_NOFLUSH_FLAG)
	if err != nil {
		if made { // or a map without a table stays
			err = errors.Join(err, d.Remove(wwn))
		}
		return "", err
	}
	return deviceNode(h.Dev)
}

// replace loads a table, suspends with these flags, and resumes with the new one. File systems are not frozen: that
// would write, and wait for it.
func (d DM) replace(wwn string, t Table, flags uint32) error {
	text := t.String()
	payload := make([]byte, unix.SizeofDmTargetSpec, unix.SizeofDmTargetSpec+len(text)+8)
	spec := (*unix.DmTargetSpec)(unsafe.Pointer(&payload[0]))
	spec.Length = t.Sectors
	copy(spec.Target_type[:], targetType)
	payload = append(payload, text...)
	payload = append(payload, make([]byte, 8-len(payload)&7)...)
	if _, _, err := dmCall(fmt.Sprintf("load %q into", text), unix.DM_TABLE_LOAD, wwn, 0, 1, payload); err != nil {
		return err
	}
	_, _, err := dmCall("suspend", unix.DM_DEV_SUSPEND, wwn, unix.DM_SUSPEND_FLAG|unix.DM_SKIP_LOCKFS_FLAG|flags, 0, nil)
	if err != nil {
		_, _, clear := dmCall("drop the unused table of", unix.DM_TABLE_CLEAR, wwn, 0, 0, nil)
		return errors.Join(err, clear)
	}
	return d.resume(wwn)
}

func (DM) resume(wwn string) error {
	_, _, err := dmCall("resume", unix.DM_DEV_SUSPEND, wwn, 0, 0, nil)
	return err
}

// Message sends one to the map's target, such as "fail_path 8:16".
func (DM) Message(wwn, text string) error {
	payload := make([]byte, unsafe.Sizeof(unix.DmTargetMsg{}), 64)
	payload = append(append(payload, text...), 0)
	_, _, err := dmCall(fmt.Sprintf("send %q to", text), unix.DM_TARGET_MSG, wwn, 0, 0, payload)
	return err
}

// Drain returns when nothing is under way on the map's paths any more, and leaves it without paths and without a queue:
// all I/O fails. It is for a map that has been told to fail I/O; on one that queues, what waits is failed too.
// The kernel waits as long as a command is under way, which SCSI's time limits bound.
func (d DM) Drain(wwn string, sectors uint64) error {
	return d.replace(wwn, Table{Sectors: sectors}, 0)
}

// Remove takes the map away. It fails with EBUSY if somebody has it open.
func (DM) Remove(wwn string) error {
	_, _, err := dmCall("remove", unix.DM_DEV_REMOVE, wwn, 0, 0, nil)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: it is mounted or open; end that first", err)
	}
	return err
}

// deviceNode is the device's file, which devtmpfs made. dev is as the kernel's ioctl has it (huge_encode_dev).
func deviceNode(dev uint64) (string, error) {
	return nodeOf(fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)))
}

// nodeOf finds the file of a block device by its number, without udev: sysfs knows the name that devtmpfs uses.
func nodeOf(dev string) (string, error) {
	major, minor, err := splitDev(dev)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/sys/dev/block/" + dev + "/uevent")
	if err != nil {
		return "", fmt.Errorf("block device %s: %w", dev, err)
	}
	for line := range bytes.Lines(data) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "DEVNAME="); ok {
			node := "/dev/" + name
			var st unix.Stat_t
			if err := unix.Stat(node, &st); err != nil {
				return "", fmt.Errorf("block device %s: %s: %w", dev, node, err)
			}
			if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != major || unix.Minor(st.Rdev) != minor {
				return "", fmt.Errorf("block device %s: %s is another device", dev, node)
			}
			return node, nil
		}
	}
	return "", fmt.Errorf("block device %s: the kernel tells no name", dev)
}
