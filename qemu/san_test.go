package qemu

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/qemu/san"
	"github.com/skein-os/skein/qemu/san/client"
	"github.com/skein-os/skein/storage/iscsi"
)

// sanConfig is a lab of a storage array alone.
func sanConfig(t *testing.T, luns ...int64) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine")
	}
	image := os.Getenv(imageEnv)
	if image == "" {
		t.Skip("needs an image: set " + imageEnv)
	}
	if _, err := exec.LookPath(DefaultQEMU); err != nil {
		t.Skip("needs " + DefaultQEMU)
	}
	return Config{Dir: t.TempDir(), Kernel: filepath.Join(image, "vmlinux"), Initrd: filepath.Join(image, initramfs.LZ4Name),
		SAN: &SAN{Initrd: filepath.Join(image, initramfs.SANName), LUNs: luns}}
}

func startSANLab(t *testing.T, cfg Config) *Lab {
	t.Helper()
	begin := time.Now()
	l, err := Start(t.Context(), cfg)
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(cfg.Dir, "machines", san.Machine, "console.log"))
		t.Fatalf("%v\n%s", err, console)
	}
	t.Logf("the array is up after %s", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(l.Close)
	show(t, l)
	return l
}

const (
	initiatorA, initiatorB = "iqn.2026-01.dev.skein.test:a", "iqn.2026-01.dev.skein.test:b"
	// sanWait ends a test that waits for what never happens.
	sanWait = time.Minute
)

// login logs in at the portal on a network, and tries again while nobody answers there.
func login(t *testing.T, l *Lab, lan int, initiator string) *client.Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), sanWait)
	defer cancel()
	conn, err := l.Dial(ctx, "tcp", net.JoinHostPort(Addr(lan, san.Number).String(), "3260"))
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(sanWait)); err != nil {
		t.Fatal(err)
	}
	s, err := client.Login(conn, initiator, san.Target, [6]byte{0x80, 0, 0, 0, 0, byte(lan)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Abort)
	return s
}

func order(t *testing.T, l *Lab, o san.Order) *san.Status {
	t.Helper()
	s, err := l.OrderSAN(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantKeys(t *testing.T, s *client.Session, lun int, want ...uint64) {
	t.Helper()
	got, err := s.Keys(lun)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("keys of LUN %d: got %x, want %x", lun, got, want)
	}
}

// TestSAN starts a storage array without any node, and looks at it from the lab's host.
func TestSAN(t *testing.T) {
	cfg := sanConfig(t, 64<<20, 2<<30)
	l := startSANLab(t, cfg)
	status := order(t, l, san.Order{Op: san.OpShow})
	if len(status.LUNs) != 2 || status.LUNs[0].Size != 64<<20 || status.LUNs[1].Size != 2<<30 || len(status.Portals) != LANs {
		t.Errorf("status: got %+v", status)
	}
	a, b := login(t, l, 0, initiatorA), login(t, l, 1, initiatorB)
	if got, err := a.LUNs(); err != nil || !slices.Equal(got, []int{0, 1}) {
		t.Errorf("LUNs: got %v, %v", got, err)
	}
	for lun := range 2 {
		id, err := b.Inquiry(lun)
		if err != nil || id.Serial != san.Serial(lun) || id.WWN != san.WWN(lun) {
			t.Errorf("inquiry of LUN %d: got %+v, %v, want %s, %s", lun, id, err, san.Serial(lun), san.WWN(lun))
		}
	}
	if err := errors.Join(a.Register(0, 0xa, true), b.Register(0, 0xb, true), a.Register(1, 0xa1, true), a.Reserve(0, 0xa)); err != nil {
		t.Fatal(err)
	}
	wantKeys(t, b, 0, 0xa, 0xb)
	block := []byte(strings.Repeat("0123456789abcdef", client.BlockSize/16))
	if err := a.Write(0, 7, block); err != nil {
		t.Fatal(err)
	}

	// The power of the machine is cut. An initiator that has nothing to do with it sees who is registered: nobody
	// else has come back.
	if err := l.PowerOff(san.Machine); err != nil {
		t.Fatal(err)
	}
	if err := l.PowerOn(t.Context(), san.Machine); err != nil {
		t.Fatal(err)
	}
	order(t, l, san.Order{Op: san.OpShow})
	if err := l.Reset(t.Context(), san.Machine); err != nil { // and its reset button is pressed
		t.Fatal(err)
	}
	status = order(t, l, san.Order{Op: san.OpShow})
	if got := status.LUNs[0]; len(got.Registered) != 2 || !strings.HasPrefix(got.Holder, initiatorA) {
		t.Errorf("registrations after a loss of power: got %+v", got)
	}
	c := login(t, l, 1, "iqn.2026-01.dev.skein.test:c")
	wantKeys(t, c, 0, 0xa, 0xb)
	wantKeys(t, c, 1, 0xa1)
	if got, err := c.Read(0, 7); err != nil || string(got) != string(block) {
		t.Errorf("the block after a loss of power: got %q, %v", got, err)
	}
	var refused *client.StatusError
	if err := c.Write(0, 7, block); !errors.As(err, &refused) || refused.Status != client.ReservationConflict {
		t.Errorf("write without a key: got %v, want a reservation conflict", err)
	}
	if err := errors.Join(c.Register(0, 0xc, true), c.Preempt(0, 0xc, 0xa), c.Write(0, 7, block)); err != nil {
		t.Errorf("take over from one who is gone: %v", err)
	}
	wantKeys(t, c, 0, 0xb, 0xc)

	// The target restarts; then it forgets what it had of one disk.
	order(t, l, san.Order{Op: san.OpRestart})
	c = login(t, l, 0, "iqn.2026-01.dev.skein.test:c")
	wantKeys(t, c, 0, 0xb, 0xc)
	order(t, l, san.Order{Op: san.OpLose, LUN: 0})
	c = login(t, l, 0, "iqn.2026-01.dev.skein.test:c")
	wantKeys(t, c, 0)
	wantKeys(t, c, 1, 0xa1)

	// Slow.
	order(t, l, san.Order{Op: san.OpSlow, LUN: 0, Delay: 300 * time.Millisecond})
	begin := time.Now()
	if err := c.Write(0, 8, block); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("a write to a slow disk took %s", took)
	}
	order(t, l, san.Order{Op: san.OpSlow, LUN: -1})

	// A portal that refuses: the connection is reset, the other portal goes on.
	d := login(t, l, 1, initiatorB)
	status = order(t, l, san.Order{Op: san.OpRefuse, Portal: 0})
	if status.Portals[0].Open || !status.Portals[1].Open {
		t.Errorf("portals: got %+v", status.Portals)
	}
	if _, err := c.Keys(0); err == nil {
		t.Error("the connection to the closed portal still works")
	}
	if conn, err := l.Dial(t.Context(), "tcp", Addr(0, san.Number).String()+":3260"); err == nil {
		conn.Close()
		t.Error("connected to the closed portal")
	}
	wantKeys(t, d, 1, 0xa1)
	order(t, l, san.Order{Op: san.OpAccept, Portal: 0})
	login(t, l, 0, initiatorA)

	// What cheap and broken arrays do.
	if status = order(t, l, san.Order{Op: san.OpResize, LUN: 1, Size: 1 << 30}); status.LUNs[1].Size != 1<<30 {
		t.Errorf("resized: got %+v", status.LUNs[1])
	}
	if _, err := l.OrderSAN(t.Context(), san.Order{Op: san.OpResize, LUN: 1, Size: 3 << 30}); err == nil {
		t.Error("a LUN was made larger than its disk")
	}
	order(t, l, san.Order{Op: san.OpResize, LUN: 1, Size: 2 << 30})
	order(t, l, san.Order{Op: san.OpWithdraw, LUN: 1})
	if got, err := d.LUNs(); err != nil || !slices.Equal(got, []int{0}) {
		t.Errorf("LUNs without the withdrawn one: got %v, %v", got, err)
	}
	order(t, l, san.Order{Op: san.OpPresent, LUN: 1})
	if got, err := d.LUNs(); err != nil || !slices.Equal(slices.Sorted(slices.Values(got)), []int{0, 1}) { // in no order
		t.Errorf("LUNs: got %v, %v", got, err)
	}
	order(t, l, san.Order{Op: san.OpDeny, LUN: 0})
	c = login(t, l, 0, "iqn.2026-01.dev.skein.test:c")
	if err := c.Register(0, 0xc, true); !errors.As(err, &refused) {
		t.Errorf("register on a LUN without reservations: got %v", err)
	}
	wantKeys(t, c, 1, 0xa1)
	order(t, l, san.Order{Op: san.OpAllow, LUN: 0})
	order(t, l, san.Order{Op: san.OpCHAP, User: "u", Secret: "twelve letters"})
	conn, err := l.Dial(t.Context(), "tcp", Addr(0, san.Number).String()+":3260")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Login(conn, initiatorA, san.Target, [6]byte{0x80, 1}); err == nil {
		t.Error("logged in without CHAP")
	}
	conn.Close()
	order(t, l, san.Order{Op: san.OpCHAP})

	// Another lab in the same folder: the same disks.
	l.Close()
	l = startSANLab(t, cfg)
	c = login(t, l, 0, initiatorA)
	wantKeys(t, c, 1, 0xa1)
	for _, e := range l.Alarms() {
		t.Errorf("alarm: %+v", e)
	}
}

// TestSANParameter: what nodes are told is what they understand.
func TestSANParameter(t *testing.T) {
	value, ok := strings.CutPrefix(sanParameter(), iscsi.Parameter+"=")
	portals, err := iscsi.ParseSAN(value)
	if !ok || err != nil || len(portals) != LANs || portals[1].Target != san.Target || portals[1].Addr != netip.AddrPortFrom(Addr(1, san.Number), san.Port) {
		t.Errorf("%s: got %v, %v", sanParameter(), portals, err)
	}
}

// TestSANDisks: disks stay from lab to lab, and are not cut or stretched behind their users' backs.
func TestSANDisks(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "san", "lun0.img")
	content := func(want string) {
		t.Helper()
		data, err := os.ReadFile(disk)
		if got := strings.Trim(string(data), "\x00"); err != nil || got != want || len(data) != 1<<20 {
			t.Errorf("the disk: got %d bytes with %q, %v, want %q", len(data), got, err, want)
		}
	}
	for _, tt := range []struct {
		name string
		san  SAN
		fits bool
		want string
	}{
		{"new", SAN{LUNs: []int64{1 << 20}}, true, ""},
		{"again", SAN{LUNs: []int64{1 << 20, 8 << 20}}, true, "data"},
		{"of another size", SAN{LUNs: []int64{2 << 20}}, false, "data"},
		{"of no size", SAN{LUNs: []int64{1 << 20, 0}}, false, "data"},
		{"of half a page", SAN{LUNs: []int64{1 << 20, 1 << 11}}, false, "data"},
		{"none", SAN{}, false, "data"},
		{"wiped", SAN{LUNs: []int64{1 << 20}, Wipe: true}, true, ""},
	} {
		tt.san.Initrd = image
		if err := tt.san.prepare(dir); (err == nil) != tt.fits {
			t.Errorf("%s: got %v", tt.name, err)
		}
		content(tt.want)
		if tt.name == "new" {
			f, err := os.OpenFile(disk, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("data"), 4096); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
	}
	if err := (&SAN{Initrd: filepath.Join(dir, "missing"), LUNs: []int64{1 << 20}}).prepare(dir); err == nil {
		t.Error("without an image: no error")
	}
}
