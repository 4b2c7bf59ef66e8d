package reserve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A small real target: the kernel's own (LIO), in a guest, over iSCSI to itself. One disk is seen through several
// sessions, each of which is a SCSI host of its own with a block device: so one kernel plays the target and all nodes.
//
//	file in a tmpfs <- loop <- device-mapper (can hold writes back) <- LIO <- iSCSI -> /dev/sda, sdb, ...
//
// The file is what is looked at to judge who wrote. iSCSI and not the simpler tcm_loop, in which PREEMPT AND ABORT
// waits for itself for ever on kernel 6.1 (docs/design/reservations.md).
const (
	lioFile   = "/tmp/disk.img"
	lioSize   = 4 << 20
	lioConfig = "/sys/kernel/config/target"
	lioCore   = lioConfig + "/core/iblock_0/disk"
	lioTPG    = lioConfig + "/iscsi/" + lioTargetName + "/tpgt_1"
	lioPortal = lioTPG + "/np/127.0.0.1:3260"
	lioSerial = "6e9f4a52-3b1d-4c58-9d0e-8a7b6c5d4e3f"
)

// maxWait ends a test that waits for what never happens. Nothing is expected to take that long.
const maxWait = 60 * time.Second

type lioTarget struct {
	t      testing.TB
	file   *os.File
	below  string // major:minor of what is under the map
	dm     string // dm-N, the map
	dbroot string
	kernel *iscsiKernel
	logins []*iscsiSession
	nexus  []string // devices, /dev/sdX, of each session
	opened []*Device
}

// startLIO makes the target with n nexuses. It is skipped outside a guest of tests/guest.
func startLIO(t *testing.T, n int) *lioTarget {
	t.Helper()
	if _, err := os.Stat("/sys/module/iscsi_target_mod"); err != nil || os.Getenv("SKEIN_BOX") != "/test/box" {
		t.Skip("needs a kernel of its own: runs in the guest of tests/guest")
	}
	// What the kernel says of each refused write takes longer to print than the write. Panics still show.
	if _, err := unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_LEVEL, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	l := &lioTarget{t: t, kernel: openISCSI(t)}
	t.Cleanup(func() { unix.Close(l.kernel.fd) })
	lo, err := netlink.LinkByName("lo")
	l.must(err)
	l.must(netlink.LinkSetUp(lo))
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	l.dbroot = l.read(lioConfig + "/dbroot")
	l.must(os.RemoveAll(l.dbroot + "/pr"))
	l.must(os.MkdirAll(l.dbroot+"/pr", 0o700))
	f, err := os.Create(lioFile)
	l.must(err)
	l.must(f.Truncate(lioSize))
	l.file = f
	loop := l.attachLoop()
	l.makeMap(loop)
	t.Cleanup(func() {
		l.dmIoctl(unix.DM_DEV_REMOVE, 0, "", "")
		fd := l.open(loop)
		_, err := unix.IoctlRetInt(fd, unix.LOOP_CLR_FD)
		l.must(err)
		unix.Close(fd)
		f.Close()
	})
	l.up(n, false)
	t.Cleanup(l.down)
	return l
}

func (l *lioTarget) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lioTarget) read(file string) string {
	l.t.Helper()
	data, err := os.ReadFile(file)
	l.must(err)
	return strings.TrimSpace(string(data))
}

func (l *lioTarget) write(file, text string) {
	l.t.Helper()
	l.must(os.WriteFile(file, []byte(text), 0))
}

func (l *lioTarget) open(path string) int {
	l.t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		l.t.Fatalf("open %s: %v", path, err)
	}
	return fd
}

func (l *lioTarget) attachLoop() string {
	ctl := l.open("/dev/loop-control")
	defer unix.Close(ctl)
	n, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
	l.must(err)
	path := fmt.Sprintf("/dev/loop%d", n)
	fd := l.open(path)
	defer unix.Close(fd)
	l.must(unix.IoctlSetInt(fd, unix.LOOP_SET_FD, int(l.file.Fd())))
	return path
}

// dmIoctl sends a command about the one map there is; kind and table are its only line, if any. It returns the
// map's device and the text that came back.
func (l *lioTarget) dmIoctl(request uintptr, flags uint32, kind, table string) (dev uint64, text string) {
	l.t.Helper()
	buf := make([]byte, 16<<10)
	h := (*unix.DmIoctl)(unsafe.Pointer(&buf[0]))
	h.Version = [3]uint32{4, 0, 0}
	h.Data_size, h.Data_start, h.Flags = uint32(len(buf)), uint32(unsafe.Sizeof(*h)), flags
	copy(h.Name[:], "skein-reserve")
	if kind != "" {
		h.Target_count = 1
		spec := (*unix.DmTargetSpec)(unsafe.Pointer(&buf[h.Data_start]))
		spec.Length = lioSize / 512
		copy(spec.Target_type[:], kind)
		copy(buf[uintptr(h.Data_start)+unsafe.Sizeof(*spec):], table+"\x00")
	}
	fd := l.open("/dev/mapper/control")
	defer unix.Close(fd)
	if _, errno := ioctl(fd, request, unsafe.Pointer(h)); errno != 0 {
		l.t.Fatalf("device-mapper %#x %s: %v", request, kind, errno)
	}
	at := uintptr(h.Data_start) + unsafe.Sizeof(unix.DmTargetSpec{})
	if h.Target_count > 0 && at < uintptr(h.Data_size) {
		text, _, _ = strings.Cut(string(buf[at:h.Data_size]), "\x00")
	}
	return h.Dev, text
}

// makeMap makes the map over the loop device.
func (l *lioTarget) makeMap(loop string) {
	var st unix.Stat_t
	l.must(unix.Stat(loop, &st))
	l.below = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	dev, _ := l.dmIoctl(unix.DM_DEV_CREATE, 0, "", "")
	l.dm = fmt.Sprintf("dm-%d", unix.Minor(dev))
	l.let()
}

// mapTo puts a new line in the map's place. What the old one held back goes on its way.
func (l *lioTarget) mapTo(kind, table string) {
	l.dmIoctl(unix.DM_TABLE_LOAD, 0, kind, table)
	l.dmIoctl(unix.DM_DEV_SUSPEND, unix.DM_SUSPEND_FLAG|unix.DM_SKIP_LOCKFS_FLAG, "", "")
	l.dmIoctl(unix.DM_DEV_SUSPEND, 0, "", "") // without the flag: resume
}

// hold makes the disk keep every command that reaches it, until let: it would be late by an hour.
func (l *lioTarget) hold() { l.mapTo("delay", l.below+" 0 3600000") }

func (l *lioTarget) let() { l.mapTo("linear", l.below+" 0") }

// untilHeld waits until the disk holds a write back: then the target has let it pass.
func (l *lioTarget) untilHeld() {
	l.t.Helper()
	l.until("write that is held back", func() bool {
		_, status := l.dmIoctl(unix.DM_TABLE_STATUS, 0, "", "")
		f := strings.Fields(status) // how many reads, writes and flushes are delayed
		return len(f) == 3 && f[1] == "1"
	})
}

// up configures the target, with the registrations that it saved if asked to, as targetcli's service does
// at boot: the kernel saves them and leaves it to others to read them back.
func (l *lioTarget) up(nexuses int, restore bool) {
	l.t.Helper()
	l.must(os.MkdirAll(lioCore, 0o755))
	l.write(lioCore+"/control", "udev_path=/dev/"+l.dm)
	l.write(lioCore+"/wwn/vpd_unit_serial", lioSerial)
	l.write(lioCore+"/enable", "1")
	if restore {
		for _, r := range l.saved() {
			l.write(lioCore+"/pr/res_aptpl_metadata", r)
		}
	}
	l.must(os.MkdirAll(lioTPG, 0o755))
	for attribute, value := range map[string]string{
		"authentication": "0", "generate_node_acls": "1", "demo_mode_write_protect": "0", "cache_dynamic_acls": "1",
	} {
		l.write(lioTPG+"/attrib/"+attribute, value)
	}
	l.must(os.MkdirAll(lioTPG+"/lun/lun_0", 0o755))
	l.must(os.Symlink(lioCore, lioTPG+"/lun/lun_0/disk"))
	l.must(os.MkdirAll(lioPortal, 0o755))
	l.write(lioTPG+"/enable", "1")
	for i := range nexuses {
		s := l.kernel.login(fmt.Sprintf("iqn.2026-11.os.skein.test:path%d", i), byte(i+1), [4]byte{127, 0, 0, 1})
		l.logins = append(l.logins, s)
		l.nexus = append(l.nexus, l.disk(s))
	}
}

// saved are the registrations that the target saved, one line each.
func (l *lioTarget) saved() []string {
	data, err := os.ReadFile(filepath.Join(l.dbroot, "pr", "aptpl_"+lioSerial))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.t.Fatal(err)
	}
	var out, one []string
	for line := range strings.Lines(string(data)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "PR_REG_START"):
			one = nil
		case strings.HasPrefix(line, "PR_REG_END"):
			out = append(out, strings.Join(one, ","))
		case strings.Contains(line, "="):
			one = append(one, line)
		}
	}
	return out
}

// down takes the target's configuration away: all it knew and had not saved is gone.
func (l *lioTarget) down() {
	l.t.Helper()
	for _, d := range l.opened {
		l.must(d.Close())
	}
	l.opened = nil
	for i, s := range l.logins {
		l.write("/sys/class/block/"+filepath.Base(l.nexus[i])+"/device/delete", "1")
		l.kernel.logout(s)
	}
	l.logins, l.nexus = nil, nil
	l.write(lioTPG+"/enable", "0")
	for _, name := range []string{lioPortal, lioTPG + "/lun/lun_0/disk", lioTPG + "/lun/lun_0", lioTPG, filepath.Dir(lioTPG)} {
		l.must(os.Remove(name))
	}
	l.must(os.Remove(lioCore))
	l.must(os.Remove(filepath.Dir(lioCore)))
}

// device opens a nexus for reservations.
func (l *lioTarget) device(i int) *Device {
	l.t.Helper()
	d, err := Open(l.nexus[i])
	l.must(err)
	l.opened = append(l.opened, d)
	return d
}

func (l *lioTarget) until(what string, ok func() bool) {
	l.t.Helper()
	for begin := time.Now(); !ok(); {
		if time.Since(begin) > maxWait {
			l.t.Fatalf("no %s", what)
		}
		time.Sleep(time.Millisecond) // between two looks at a file of the kernel's, which tells nobody
	}
}

func (l *lioTarget) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), maxWait)
	l.t.Cleanup(cancel)
	return ctx
}

// ask sends one command that must be executed.
func (l *lioTarget) ask(d *Device, c Command) Answer {
	l.t.Helper()
	a, err := calm(l.ctx(), d, c)
	l.must(err)
	return a
}
