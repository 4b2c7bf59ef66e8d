package pid1

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

// What is mounted before anything else: the watchdog needs /dev, and modules and reports need the others.
var firstMounts = []mount{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755"},
}

// The rest, once the root is the final one. /run holds the node's state, images and container roots and may
// take half of the memory; it allows set-uid files, as a container's root may be a plain folder in it.
var restMounts = []mount{
	{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=10%"},
	{"mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"cgroup2", cgroupRoot, "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate"},
	{"run", "/run", "tmpfs", unix.MS_NODEV, "mode=0755,size=50%"},
	{"tmp", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777,size=10%"},
}

// Names that programs expect and devtmpfs does not make.
var deviceLinks = [][2]string{
	{"/proc/self/fd", "/dev/fd"},
	{"/proc/self/fd/0", "/dev/stdin"},
	{"/proc/self/fd/1", "/dev/stdout"},
	{"/proc/self/fd/2", "/dev/stderr"},
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) { // busy: it is mounted there already
		return fmt.Errorf("mount %s (%s): %w", m.target, m.fstype, err)
	}
	return nil
}

func mountFirst() error {
	for _, m := range firstMounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	return nil
}

func mountRest(logf func(string, ...any)) error {
	for _, m := range restMounts {
		err := m.do()
		if err != nil && m.target != "/dev/mqueue" { // only few programs miss that one
			return err
		}
		if err != nil {
			logf("%v", err)
		}
	}
	for _, l := range deviceLinks {
		if err := os.Symlink(l[0], l[1]); err != nil && !errors.Is(err, os.ErrExist) {
			logf("%v", err)
		}
	}
	if err := os.MkdirAll(RunDir, 0o755); err != nil {
		return err
	}
	return nil
}

// enterRoot makes pivot_root work, without which containers do not start. The kernel refuses it while the root
// is the initramfs' rootfs, as that mount has no parent. Bound elsewhere and moved over itself it has one: the
// same files, not a byte copied. It comes before every other mount, or those would stay below. The root is
// limited as well, so that nothing can eat all memory by writing to it.
func enterRoot() error {
	const newRoot = "/newroot"
	var fs unix.Statfs_t
	steps := []struct {
		what string
		do   func() error
	}{
		{"look at it", func() error { return unix.Statfs("/", &fs) }},
		{"make " + newRoot, func() error { return os.MkdirAll(newRoot, 0o755) }},
		{"bind it", func() error { return unix.Mount("/", newRoot, "", unix.MS_BIND, "") }},
		{"enter the bound one", func() error { return unix.Chdir(newRoot) }},
		{"move it over the old one", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"change root into it", func() error { return unix.Chroot(".") }},
		{"change directory into it", func() error { return unix.Chdir("/") }},
		{"remove " + newRoot, func() error { return os.Remove(newRoot) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("prepare the root file system: %s: %w", step.what, err)
		}
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return nil // a ramfs (the kernel was given root=) knows no limit
	}
	used := (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	limit := fmt.Sprintf("size=%d", used+rootSpare)
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT, limit); err != nil {
		return fmt.Errorf("limit the root file system to %s: %w", limit, err)
	}
	return nil
}

// rootSpare is how much may be written to the root file system besides what the image brought, in bytes.
// State belongs in /run.
const rootSpare = 32 << 20

// unmountAll unmounts every file system on real storage and all that lies on top, latest first. What cannot
// be unmounted is made read-only, which writes it back as well.
func unmountAll(logf func(string, ...any)) {
	targets, err := storageMounts()
	if err != nil {
		logf("list mounts: %v", err)
	}
	for _, target := range targets {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if err2 := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err2 != nil {
			logf("unmount %s: %v; make it read-only: %v", target, err, err2)
		}
	}
	unix.Sync()
}

// storageMounts lists where something else than the machine's own memory is mounted, latest first.
func storageMounts() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var targets []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if target, fstype, ok := parseMountinfo(lines.Text()); ok && !inMemory[fstype] {
			targets = append(targets, target)
		}
	}
	slices.Reverse(targets)
	return targets, nil
}

// inMemory are the file systems that hold nothing worth writing back. The nodes' own are among them: /run
// stays to the end, as PID 1 logs to it.
var inMemory = map[string]bool{
	"rootfs": true, "tmpfs": true, "ramfs": true, "proc": true, "sysfs": true, "devtmpfs": true, "devpts": true,
	"mqueue": true, "cgroup2": true, "securityfs": true, "debugfs": true, "tracefs": true, "bpf": true,
	"configfs": true, "efivarfs": true, "pstore": true, "nsfs": true,
}

// parseMountinfo reads one line of /proc/self/mountinfo (proc(5)).
func parseMountinfo(line string) (target, fstype string, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	if !ok {
		return "", "", false
	}
	fields := strings.Fields(left)
	after := strings.Fields(right)
	if len(fields) < 5 || len(after) < 1 {
		return "", "", false
	}
	return unescapeMount(fields[4]), after[0], true
}

// unescapeMount undoes the kernel's octal escapes of space, tab, line end and backslash.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
