package iscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/disk"
)

// A real target, the kernel's own (LIO), in a guest, over iSCSI to itself with Debian's iscsid:
//
//	file in a tmpfs <- loop <- LIO <- iSCSI over 127.0.0.1, 127.0.0.2, ::1 -> /dev/sda, sdb, ...
const (
	lioFile   = "/tmp/disk.img"
	lioSize   = 8 << 20
	lioConfig = "/sys/kernel/config/target"
	lioCore   = lioConfig + "/core/iblock_0/disk"
	lioTPG    = lioConfig + "/iscsi/" + iqn + "/tpgt_1"
	lioSerial = "5f0c8a51-2b7d-4a58-8d0e-1a7b6c5d4e3f"
)

// maxWait ends a test that waits for what never happens. Nothing is expected to take that long.
const maxWait = 90 * time.Second

type lioTarget struct {
	t    testing.TB
	loop string
}

func startLIO(t *testing.T) *lioTarget {
	t.Helper()
	if _, err := os.Stat("/sys/module/iscsi_target_mod"); err != nil || os.Getenv("SKEIN_BOX") != "/test/box" {
		t.Skip("needs a kernel of its own: runs in the guest of tests/guest")
	}
	if _, err := unix.Klogctl(unix.SYSLOG_ACTION_CONSOLE_LEVEL, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	l := &lioTarget{t: t}
	lo, err := netlink.LinkByName("lo")
	l.must(err)
	l.must(netlink.LinkSetUp(lo))
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
	f, err := os.Create(lioFile)
	l.must(err)
	l.must(f.Truncate(lioSize))
	defer f.Close()
	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	l.must(err)
	defer unix.Close(ctl)
	n, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
	l.must(err)
	l.loop = fmt.Sprintf("/dev/loop%d", n)
	l.loopIoctl(unix.LOOP_SET_FD, int(f.Fd()))
	t.Cleanup(func() { l.loopIoctl(unix.LOOP_CLR_FD, 0) })

	l.must(os.MkdirAll(lioCore, 0o755))
	l.write(lioCore+"/control", "udev_path="+l.loop)
	l.write(lioCore+"/wwn/vpd_unit_serial", lioSerial)
	l.write(lioCore+"/enable", "1")
	l.must(os.MkdirAll(lioTPG, 0o755))
	for attribute, value := range map[string]string{
		"authentication": "0", "generate_node_acls": "1", "demo_mode_write_protect": "0", "cache_dynamic_acls": "1",
	} {
		l.write(lioTPG+"/attrib/"+attribute, value)
	}
	l.must(os.MkdirAll(lioTPG+"/lun/lun_0", 0o755))
	l.must(os.Symlink(lioCore, lioTPG+"/lun/lun_0/disk"))
	for _, np := range []string{"127.0.0.1:3260", "127.0.0.2:3260", "[::1]:3261"} {
		l.must(os.MkdirAll(lioTPG+"/np/"+np, 0o755))
	}
	l.write(lioTPG+"/enable", "1")
	t.Cleanup(func() {
		l.write(lioTPG+"/enable", "0")
		nps, err := filepath.Glob(lioTPG + "/np/*")
		l.must(err)
		for _, name := range append(nps, lioTPG+"/lun/lun_0/disk", lioTPG+"/lun/lun_0", lioTPG, filepath.Dir(lioTPG), lioCore, filepath.Dir(lioCore)) {
			l.must(os.Remove(name))
		}
	})
	return l
}

func (l *lioTarget) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lioTarget) write(file, text string) {
	l.t.Helper()
	l.must(os.WriteFile(file, []byte(text), 0))
}

func (l *lioTarget) loopIoctl(request uint, arg int) {
	l.t.Helper()
	fd, err := unix.Open(l.loop, unix.O_RDWR|unix.O_CLOEXEC, 0)
	l.must(err)
	defer unix.Close(fd)
	l.must(unix.IoctlSetInt(fd, request, arg))
}

// cut takes all frames from and to an address away, without a word to either side, until the returned function.
func (l *lioTarget) cut(addr string) (mend func()) {
	l.t.Helper()
	c, err := nftables.New()
	l.must(err)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "cut"})
	chain := c.AddChain(&nftables.Chain{Name: "out", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter})
	for _, offset := range []uint32{12, 16} { // source, destination
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: netip.MustParseAddr(addr).AsSlice()},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
	}
	l.must(c.Flush())
	return func() {
		c.DelTable(table)
		l.must(c.Flush())
	}
}

// safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// liveInitiator is an Initiator that runs.
type liveInitiator struct {
	*Initiator
	l   *lioTarget
	log *safeBuffer
}

func (l *lioTarget) initiator(name string) (i *liveInitiator, stop func()) {
	l.t.Helper()
	log := &safeBuffer{}
	output, err := os.OpenFile("/tmp/iscsid.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	l.must(err)
	in, err := New(Config{Name: name, Cgroup: "/sys/fs/cgroup/skein.iscsid", Output: output, Log: slog.New(slog.NewTextHandler(log, nil))})
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); in.Run(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		<-done
		output.Close()
		if l.t.Failed() {
			l.t.Log(log.String(), iscsidSays())
		}
		if pid := daemonPID(); pid != 0 { // it would know the next test by this one's name
			l.must(unix.Kill(pid, unix.SIGKILL))
			_ = awaitExit(context.Background(), pid)
		}
	})
	return &liveInitiator{in, l, log}, func() { cancel(); <-done }
}

// until waits for the initiator's statuses to be as asked.
func (i *liveInitiator) until(what string, ok func([]Status) bool) time.Duration {
	i.l.t.Helper()
	begin := time.Now()
	for !ok(i.Status()) {
		if time.Since(begin) > maxWait {
			i.l.t.Fatalf("not %s: %+v", what, i.Status())
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(begin)
}

func (i *liveInitiator) at(p Portal, state PortalState) func([]Status) bool {
	return func(list []Status) bool {
		return slices.ContainsFunc(list, func(s Status) bool { return s.Portal == p.Addr && s.State == state })
	}
}

func (i *liveInitiator) session(p Portal) int {
	for _, s := range i.Status() {
		if s.Portal == p.Addr {
			return s.Session
		}
	}
	return 0
}

// disks are those that came over iSCSI.
func (l *lioTarget) disks() []disk.Disk {
	l.t.Helper()
	all, err := disk.Kernel.Scan()
	l.must(err)
	return slices.DeleteFunc(all, func(d disk.Disk) bool { return d.Paths[0].Transport != "iscsi" })
}

// reads a block past the cache, as a program does that wants to know whether the path works.
func (l *lioTarget) reads(name string) error {
	fd, err := unix.Open("/dev/"+name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buf) }()
	_, err = unix.Pread(fd, buf, 0)
	return err
}

// iscsidSays is all that iscsid has printed.
func iscsidSays() string {
	data, _ := os.ReadFile("/tmp/iscsid.log")
	return string(data)
}

// daemonPID is that of iscsid, 0 if there is none.
func daemonPID() int {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, n := range names {
		data, err := os.ReadFile(n)
		_, dead := os.Readlink(filepath.Join(filepath.Dir(n), "exe")) // nobody has waited for it yet, as PID 1 would
		if err == nil && dead == nil && strings.TrimSpace(string(data)) == "iscsid" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(n)))
			return pid
		}
	}
	return 0
}

func (i *liveInitiator) nothingLeft() {
	i.l.t.Helper()
	i.until("all sessions logged out", func(s []Status) bool { return len(s) == 0 })
	if d := i.l.disks(); len(d) != 0 {
		i.l.t.Errorf("left: %+v", d)
	}
	if s, err := Sessions("/sys"); err != nil || len(s) != 0 {
		i.l.t.Errorf("left: %v, %v", s, err)
	}
	err := filepath.WalkDir("/etc/iscsi/nodes", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			i.l.t.Errorf("left: %s", path)
		}
		return err
	})
	i.l.must(err)
}

func wants(list ...Portal) []Want {
	var out []Want
	for _, p := range list {
		out = append(out, Want{Portal: p})
	}
	return out
}

var (
	portal1 = portal("127.0.0.1:3260")
	portal2 = portal("127.0.0.2:3260")
	portal6 = portal("[::1]:3261")
)

func TestLIOSessions(t *testing.T) {
	l := startLIO(t)
	i, stop := l.initiator("iqn.2026-01.dev.skein:test:n1")
	found, err := i.Discover(t.Context(), portal1.Addr)
	if err != nil || !slices.Contains(found, portal1) || !slices.Contains(found, portal2) || !slices.Contains(found, portal6) {
		t.Errorf("discovered %v, %v", found, err)
	}
	if _, err := i.Discover(t.Context(), netip.MustParseAddrPort("127.0.0.1:1")); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("discovery where nobody listens: %v", err)
	} else {
		t.Log(err)
	}

	// Two portals, one disk.
	i.Want(wants(portal1, portal2), true)
	ready := func(list ...Portal) func([]Status) bool {
		return func(s []Status) bool {
			return !slices.ContainsFunc(list, func(p Portal) bool { return !i.at(p, Ready)(s) })
		}
	}
	t.Logf("two portals: logged in after %v", i.until("logged in", ready(portal1, portal2)))
	disks := l.disks()
	if len(disks) != 1 || len(disks[0].Paths) != 2 || disks[0].Size != lioSize || !strings.HasPrefix(disks[0].WWN, "naa.6001405") {
		t.Fatalf("disks: %+v", disks)
	}
	for k, p := range disks[0].Paths {
		if p.Transport != "iscsi" || p.Target != iqn || p.State != "running" {
			t.Errorf("path: %+v", p)
		}
		if k > 0 && p.Portal == disks[0].Paths[0].Portal || p.Portal != portal1.Addr.String() && p.Portal != portal2.Addr.String() {
			t.Errorf("path: %+v", p)
		}
	}
	for _, s := range i.Status() {
		data, err := os.ReadFile(fmt.Sprintf("/sys/class/iscsi_session/session%d/recovery_tmo", s.Session))
		if err != nil || strings.TrimSpace(string(data)) != "1" || s.Err != "" {
			t.Errorf("session %+v: recovery_tmo %q, %v", s, data, err)
		}
	}
	path := func(p Portal) disk.Path {
		for _, d := range l.disks() {
			for _, x := range d.Paths {
				if x.Portal == p.Addr.String() {
					return x
				}
			}
		}
		t.Fatalf("no path over %s", p)
		return disk.Path{}
	}

	// A third over IPv6 comes and goes.
	i.Want(wants(portal1, portal2, portal6), true)
	t.Logf("IPv6: logged in after %v", i.until("logged in over IPv6", ready(portal1, portal2, portal6)))
	if d := l.disks(); len(d) != 1 || len(d[0].Paths) != 3 {
		t.Errorf("disks: %+v", d)
	}
	i.Want(wants(portal1, portal2), true)
	i.until("IPv6 logged out", func(s []Status) bool { return len(s) == 2 })
	if d := l.disks(); len(d) != 1 || len(d[0].Paths) != 2 {
		t.Errorf("disks: %+v", d)
	}

	// A portal is cut and mended: the same session, the same device.
	one, two, dev := i.session(portal1), i.session(portal2), path(portal2)
	lost := func() {
		t.Helper()
		mend := l.cut("127.0.0.2")
		begin := time.Now()
		after := i.until("lost", i.at(portal2, Lost))
		t.Logf("cut: seen as failed after %v", after)
		for l.reads(dev.Name) == nil || path(portal2).State != "transport-offline" {
			if time.Since(begin) > maxWait {
				t.Fatalf("the dead path is not offline: %+v", path(portal2))
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("cut: commands fail after %v", time.Since(begin))
		l.must(l.reads(path(portal1).Name))
		for _, s := range i.Status() {
			if s.Portal == portal2.Addr && s.Err == "" {
				t.Errorf("no reason: %+v", s)
			}
		}
		mend()
		t.Logf("mended: logged in after %v", i.until("back", ready(portal1, portal2)))
		if i.session(portal1) != one || i.session(portal2) != two || path(portal2).Dev != dev.Dev {
			t.Errorf("sessions %+v, path %+v; want those of before: %d, %d, %+v", i.Status(), path(portal2), one, two, dev)
		}
		l.must(l.reads(dev.Name))
	}
	lost()

	// iscsid is killed: the sessions do not notice, and the next iscsid looks after them.
	old := daemonPID()
	if old == 0 {
		t.Fatal("no iscsid")
	}
	paths := []string{path(portal1).Name, path(portal2).Name}
	ended, reads := make(chan struct{}), make(chan time.Duration)
	go func() { // as a program would that uses the disks
		var longest time.Duration
		defer func() { reads <- longest }()
		for {
			for _, name := range paths {
				begin := time.Now()
				if err := l.reads(name); err != nil {
					t.Errorf("read of %s while iscsid starts: %v", name, err)
					return
				}
				longest = max(longest, time.Since(begin))
			}
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	recovered := strings.Count(iscsidSays(), "operational after recovery")
	l.must(unix.Kill(old, unix.SIGKILL))
	begin := time.Now()
	i.until("another iscsid", func([]Status) bool { pid := daemonPID(); return pid != 0 && pid != old })
	t.Logf("iscsid killed: another after %v", time.Since(begin))
	if i.session(portal1) != one || i.session(portal2) != two {
		t.Errorf("sessions %+v, want %d, %d", i.Status(), one, two)
	}
	// iscsid connects what it finds anew, at once.
	i.until("connected anew", func([]Status) bool {
		return strings.Count(iscsidSays(), "operational after recovery") == recovered+2
	})
	close(ended)
	t.Logf("iscsid killed: sessions connected anew after %v, longest read %v", time.Since(begin), <-reads)
	for _, id := range []int{one, two} {
		file := fmt.Sprintf("/sys/class/iscsi_session/session%d/recovery_tmo", id)
		i.until("recovery_tmo as before", func([]Status) bool {
			data, err := os.ReadFile(file)
			return err == nil && strings.TrimSpace(string(data)) == "1"
		})
	}
	lost()

	// The LUN grows.
	l.must(os.Truncate(lioFile, 2*lioSize))
	l.loopIoctl(unix.LOOP_SET_CAPACITY, 0)
	i.Rescan()
	i.until("grown", func([]Status) bool { d := l.disks(); return len(d) == 1 && d[0].Size == 2*lioSize })

	// A session that is lost can be ended, and nothing of it stays; the portal is logged in to again when it is back.
	mend := l.cut("127.0.0.2")
	i.until("lost", i.at(portal2, Lost))
	i.Want(wants(portal1), true)
	t.Logf("lost session: logged out after %v", i.until("logged out of the lost one", func(s []Status) bool { return len(s) == 1 }))
	if d := l.disks(); len(d) != 1 || len(d[0].Paths) != 1 {
		t.Errorf("disks: %+v", d)
	}
	i.Want(wants(portal1, portal2), true)
	i.until("refused", func(s []Status) bool { return len(s) == 2 && !i.at(portal2, Ready)(s) && s[1].Err != "" })
	t.Log(i.Status()[1].Err)
	mend()
	t.Logf("mended: logged in anew after %v", i.until("logged in anew", ready(portal1, portal2)))
	dev = path(portal2)
	l.must(l.reads(dev.Name))

	// A session is not ended as long as it has the only path to a disk in use.
	fd, err := unix.Open("/dev/"+dev.Name, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	l.must(err)
	i.Want(wants(portal1), true)
	i.until("logged out of the second, as the first leads there too", func(s []Status) bool { return len(s) == 1 })
	unix.Close(fd)
	fd, err = unix.Open("/dev/"+path(portal1).Name, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	l.must(err)
	i.Want(nil, true)
	i.until("kept", func(s []Status) bool { return len(s) == 1 && strings.Contains(s[0].Err, "in use") })
	t.Log(i.Status()[0].Err)
	if len(l.disks()) != 1 {
		t.Error("a disk in use has gone")
	}

	// Another Initiator finds the session, and leaves it alone until it knows all that is wanted.
	old, recovered = daemonPID(), strings.Count(iscsidSays(), "operational after recovery")
	stop()
	i, _ = l.initiator("iqn.2026-01.dev.skein:test:n1")
	i.Want(nil, false)
	if _, err := i.Discover(t.Context(), portal1.Addr); err != nil { // it works now
		t.Error(err)
	}
	i.Want(wants(portal1), false)
	i.until("found", ready(portal1))
	if i.session(portal1) != one {
		t.Errorf("session %d, want %d", i.session(portal1), one)
	}
	if pid, n := daemonPID(), strings.Count(iscsidSays(), "operational after recovery"); pid != old || n != recovered {
		t.Errorf("iscsid was %d and is %d; it has connected %d sessions anew, want none", old, pid, n-recovered)
	}
	l.must(unix.Kill(old, unix.SIGKILL)) // which is not its child
	i.until("another iscsid", func([]Status) bool { pid := daemonPID(); return pid != 0 && pid != old })
	i.until("found", ready(portal1))
	unix.Close(fd)
	i.Want(nil, true)
	i.nothingLeft()
}

func TestLIOCHAP(t *testing.T) {
	l := startLIO(t)
	const user, secret, peer, peerSecret = "skein", `four#teen "b = 1`, "array", "another-secret2"
	l.write(lioTPG+"/attrib/authentication", "1")
	l.write(lioTPG+"/auth/userid", user)
	l.write(lioTPG+"/auth/password", secret)
	i, _ := l.initiator("iqn.2026-01.dev.skein:test:n2")
	try := func(p Portal, c *CHAP) { i.Want([]Want{{p, c}}, true) }
	refused := func(p Portal, why string) {
		t.Helper()
		var said string
		// A target that is starved of the processor may not answer at first.
		i.until("refused", func(s []Status) bool {
			if len(s) != 1 || s[0].State != Waiting {
				return false
			}
			said = s[0].Err
			return strings.Contains(said, why) && strings.Contains(said, p.String())
		})
		t.Log(said)
		if len(l.disks()) != 0 {
			t.Error("there is a disk")
		}
		if s, err := Sessions("/sys"); err != nil || len(s) != 0 {
			t.Errorf("sessions: %v, %v", s, err)
		}
		i.Want(nil, true)
		i.nothingLeft()
	}
	in := func(p Portal) {
		t.Helper()
		i.until("logged in", i.at(p, Ready))
		if len(l.disks()) != 1 {
			t.Errorf("disks: %+v", l.disks())
		}
		st, err := os.Stat(recordPath("/etc/iscsi", p))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("record: %v, %v", st, err)
		}
		i.Want(nil, true)
		i.nothingLeft()
	}
	try(portal1, nil)
	refused(portal1, "CHAP")
	try(portal1, &CHAP{User: user, Secret: "wrong-secret-12"})
	refused(portal1, "CHAP")
	try(portal1, &CHAP{User: user, Secret: secret})
	in(portal1)

	l.write(lioTPG+"/auth/userid_mutual", peer)
	l.write(lioTPG+"/auth/password_mutual", peerSecret)
	try(portal6, &CHAP{User: user, Secret: secret, TargetUser: peer, TargetSecret: peerSecret})
	in(portal6)
	try(portal2, &CHAP{User: user, Secret: secret, TargetUser: peer, TargetSecret: "not-of-this-one"})
	refused(portal2, "target's own CHAP secret")
	for _, s := range []string{secret, peerSecret, "wrong-secret-12", "not-of-this-one"} {
		if strings.Contains(i.log.String()+iscsidSays(), s) {
			t.Errorf("the log has the secret %q", s)
		}
	}
}
