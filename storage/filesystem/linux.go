package filesystem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Linux is the Driver of a real node.
type Linux struct {
	// Load loads kernel modules; nil: the kernel has what it needs.
	Load func(modules ...string) error
}

var _ Driver = Linux{}

// openExclusive opens the device such that nobody on this machine has it mounted or takes it meanwhile. Flags:
// O_RDONLY or O_RDWR.
func openExclusive(device string, flags int) (*os.File, error) {
	f, err := os.OpenFile(device, flags|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w", device, ErrBusy)
	}
	return f, err
}

// fresh drops what the page cache has of the device: while somebody else had the disk it has become old, and a
// superblock or journal from it would bring back what the other has changed.
func fresh(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil && !errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("%s: drop what is cached of it: %w", f.Name(), err)
	}
	return nil
}

func deviceSize(f *os.File) (int64, error) {
	var size uint64
	_, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size)))
	if errors.Is(e, unix.ENOTTY) { // a file, in a test
		info, err := f.Stat()
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	if e != 0 {
		return 0, fmt.Errorf("%s: size: %w", f.Name(), e)
	}
	return int64(size), nil
}

// Identify reads what is on the device, from the disk and not from the page cache.
func (Linux) Identify(device string) (c Content, err error) {
	f, err := openExclusive(device, os.O_RDONLY)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fresh(f); err != nil {
		return c, err
	}
	size, err := deviceSize(f)
	if err != nil {
		return c, err
	}
	return Identify(f, size)
}

// Make makes the file system with mke2fs or mkfs.xfs, and looks whether it is there.
func (l Linux) Make(ctx context.Context, device string, v Volume, overwrite Kind) error {
	c, err := l.Identify(device)
	if err != nil {
		return err
	}
	if c.Kind != Empty && c.Kind != overwrite {
		return fmt.Errorf("%s: %w: %s; nothing was touched", device, ErrForeign, c)
	}
	argv, err := makeCommand(device, v)
	if err != nil {
		return err
	}
	if c.Kind != Empty {
		if err := wipe(device); err != nil {
			return err
		}
	}
	if out, code, err := run(ctx, argv); err != nil || code != 0 {
		return fmt.Errorf("make %s on %s: ended with %d: %q: %w", v.Kind, device, code, out, errors.Join(err, ctx.Err()))
	}
	if c, err = l.Identify(device); err != nil {
		return err
	}
	return v.Matches(c)
}

// wipe zeroes the areas where signatures are: what is left of an old one would make the disk look like two things.
func wipe(device string) (err error) {
	f, err := openExclusive(device, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := deviceSize(f)
	if err != nil {
		return err
	}
	tail := max(0, size-tailSize)
	if _, err := f.WriteAt(make([]byte, size-tail), tail); err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, min(size, headSize)), 0); err != nil {
		return err
	}
	return f.Sync()
}

// run runs a program and returns the end of what it said.
func run(ctx context.Context, argv []string) (out string, code int, err error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL=C"}
	b, err := cmd.CombinedOutput()
	out = strings.TrimSpace(string(b))
	out = out[max(0, len(out)-500):]
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, exit.ExitCode(), nil
	}
	if errors.Is(err, os.ErrNotExist) {
		return out, -1, fmt.Errorf("this node's image has no %s: build it with that tool", argv[0])
	}
	return out, 0, err
}

// Mount checks what is on the device and mounts it with noatime, nodev and nosuid.
func (l Linux) Mount(ctx context.Context, device string, v Volume, folder string) (m Mounted, err error) {
	c, err := l.Identify(device)
	if err != nil {
		return m, err
	}
	if err := v.Matches(c); err != nil {
		return m, err
	}
	m.Replayed = c.Dirty
	check := func() error {
		m.Checked = true
		out, code, err := run(ctx, []string{"/sbin/e2fsck", "-p", "-f", device})
		if err != nil {
			return err
		}
		if err := checkResult(code, out); err != nil {
			return fmt.Errorf("volume %s on %s: %w", v.Name, device, err)
		}
		return nil
	}
	if c.Errors {
		if err := check(); err != nil {
			return m, err
		}
	}
	if l.Load != nil {
		if err := l.Load(string(v.Kind)); err != nil { // ext4 and xfs are their modules' names
			return m, err
		}
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return m, err
	}
	mount := func() error {
		if err := unix.Mount(device, folder, string(v.Kind), unix.MS_NOATIME|unix.MS_NODEV|unix.MS_NOSUID, mountOptions(v.Kind)); err != nil {
			return fmt.Errorf("mount volume %s (%s on %s): %w", v.Name, v.Kind, device, err)
		}
		return nil
	}
	if err := mount(); err != nil {
		return m, err
	}
	bad := l.Health(folder)
	if bad != nil && !m.Checked { // the journal that was replayed said it
		if err := l.Unmount(folder, false); err != nil {
			return m, errors.Join(bad, err)
		}
		if err := check(); err != nil {
			return m, err
		}
		if err := mount(); err != nil {
			return m, err
		}
		bad = l.Health(folder)
	}
	if bad != nil {
		return m, errors.Join(bad, l.Unmount(folder, false))
	}
	return m, nil
}

const (
	ext4Resize    = 0x40086610 // EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
	xfsGeometry   = 0x8100587e // XFS_IOC_FSGEOMETRY, _IOR('X', 126, struct xfs_fsop_geom), 256 bytes
	xfsGrow       = 0x4010586e // XFS_IOC_FSGROWFSDATA, _IOW('X', 110, struct xfs_growfs_data), 16 bytes
	xfsGeomMaxPct = 28         // imaxpct's place in xfs_fsop_geom
)

// Grow makes a mounted file system as large as its device, by the kernel's own ioctls.
func (Linux) Grow(device, folder string) (size int64, err error) {
	dev, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	size, err = deviceSize(dev)
	if err = errors.Join(err, dev.Close()); err != nil {
		return 0, err
	}
	f, err := os.Open(folder)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, err
	}
	blocks := uint64(size / st.Bsize)
	ioctl := func(request uintptr, p unsafe.Pointer) error {
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(p)); e != 0 {
			return fmt.Errorf("grow the file system at %s to %d bytes: %w", folder, size, e)
		}
		return nil
	}
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return size, ioctl(ext4Resize, unsafe.Pointer(&blocks))
	case unix.XFS_SUPER_MAGIC:
		var geom [256]byte
		if err := ioctl(xfsGeometry, unsafe.Pointer(&geom)); err != nil {
			return 0, err
		}
		grow := struct {
			blocks uint64
			maxPct uint32
			_      uint32
		}{blocks: blocks, maxPct: binary.NativeEndian.Uint32(geom[xfsGeomMaxPct:])}
		if err := ioctl(xfsGrow, unsafe.Pointer(&grow)); err != nil && !errors.Is(err, unix.EINVAL) { // it is as large already
			return 0, err
		}
		return size, nil
	}
	return 0, fmt.Errorf("%s: no file system of a volume is mounted there", folder)
}

// Unmount ends the mount. For one that is lost, whoever has files open keeps the file system alive, which is
// ErrBusy: only the end of that process, or of the machine, ends it.
func (Linux) Unmount(folder string, lost bool) error {
	err := unix.Unmount(folder, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // not mounted
	}
	// A container that was killed may need a moment to let go of its mounts.
	for end := time.Now().Add(2 * time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
		err = unix.Unmount(folder, 0)
	}
	if err == nil {
		return nil
	}
	if lost {
		if derr := unix.Unmount(folder, unix.MNT_DETACH); derr != nil {
			return fmt.Errorf("unmount %s: %w", folder, errors.Join(err, derr))
		}
		return fmt.Errorf("unmount %s: %w", folder, ErrBusy)
	}
	return fmt.Errorf("unmount %s: %w", folder, err)
}

// Health looks whether ext4 has met an error, or xfs has shut itself down. Newer kernels do not show an ext4 that writes
// nothing any more as read-only (its "don't set SB_RDONLY after filesystem errors", in the stable ones too); its count of
// errors, which a check of the file system sets to zero, is told in sysfs.
func (Linux) Health(folder string) error {
	// The root of an xfs that has shut down gives EIO, however much of it is cached.
	if _, err := os.Lstat(folder); err != nil {
		return fmt.Errorf("the file system has ended: %w", err)
	}
	mounts, err := mountinfo()
	if err != nil {
		return err
	}
	m, ok := mounts[folder]
	switch {
	case !ok:
		return fmt.Errorf("nothing is mounted at %s", folder)
	case m.readOnly:
		return fmt.Errorf("the file system on %s was set read-only after an error", m.device)
	}
	n, err := errorCount(folder)
	if err == nil && n != "0" {
		err = fmt.Errorf("the file system on %s met an error and writes nothing any more (errors since its last check: %s)", m.device, n)
	}
	return err
}

// errorCount is how many errors an ext4 has met since its last check (Documentation/ABI/testing/sysfs-fs-ext4); others do
// not count.
func errorCount(folder string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(folder, &st); err != nil {
		return "", fmt.Errorf("%s: %w", folder, err)
	}
	name, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return "0", nil // not on a disk of its own
	}
	data, err := os.ReadFile("/sys/fs/ext4/" + filepath.Base(name) + "/errors_count")
	if errors.Is(err, os.ErrNotExist) {
		return "0", nil
	}
	return strings.TrimSpace(string(data)), err
}

// Mounts lists what is mounted below root.
func (Linux) Mounts(root string) (map[string]string, error) {
	mounts, err := mountinfo()
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for folder, m := range mounts {
		if strings.HasPrefix(folder, filepath.Clean(root)+"/") {
			out[folder] = m.device
		}
	}
	return out, nil
}

type mounted struct {
	device   string
	readOnly bool // of the superblock, whatever this mount is
}

func mountinfo() (map[string]mounted, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMountinfo(string(data)), nil
}

// parseMountinfo reads /proc/PID/mountinfo (proc(5)): fields, optional ones, a dash, type, source, super options.
func parseMountinfo(text string) map[string]mounted {
	out := map[string]mounted{}
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		m := mounted{device: g[1]}
		for o := range strings.SplitSeq(g[2], ",") {
			m.readOnly = m.readOnly || o == "ro"
		}
		out[f[4]] = m
	}
	return out
}
