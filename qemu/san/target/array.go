package target

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu/san"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/modules"
)

// stateUUID is of the file system with the array's state.
const stateUUID = "5ce10000-6c61-4200-8000-73616e000001"

// Array is the machine's target. It is used by one goroutine.
type Array struct {
	luns    []*lun
	portals []san.Portal // by network
	begin   time.Time
	user    string // who logs in has to know secret; empty: nobody has to
	secret  string
}

type lun struct {
	number     int
	disk       *delayed
	withdrawn  bool
	unreserved bool
}

func (l *lun) size() int64 { return int64(l.disk.sectors) * sector }

// Start makes the machine an array. addresses are its own, one for each network, in the order of the cards.
func Start(ctx context.Context, addresses []netip.Prefix) (*Array, error) {
	a := &Array{begin: time.Now()}
	if err := mounts(); err != nil {
		return nil, err
	}
	if err := modules.Load(san.Modules...); err != nil {
		return nil, err
	}
	if err := mount("configfs", "/sys/kernel/config", "configfs", 0); err != nil {
		return nil, err
	}
	if err := a.network(addresses); err != nil {
		return nil, err
	}
	found, err := disks()
	if err != nil {
		return nil, err
	}
	if err := mountState(ctx, found); err != nil {
		return nil, err
	}
	for n := range san.MaxLUNs {
		d, ok := found[san.DiskSerial(n)]
		if !ok {
			continue
		}
		m, err := newDelayed(san.DiskSerial(n), d.device, d.size)
		if err != nil {
			return nil, fmt.Errorf("LUN %d: %w", n, err)
		}
		a.luns = append(a.luns, &lun{number: n, disk: m})
	}
	if len(a.luns) == 0 {
		return nil, errors.New("the machine has no disk for a LUN")
	}
	// Making the fabric's folder announces the fabric; it stays over restarts of the target.
	if err := os.MkdirAll(config+"/iscsi", 0o755); err != nil {
		return nil, err
	}
	return a, a.up()
}

func mount(source, folder, kind string, flags uintptr) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, folder, kind, flags, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", folder, err)
	}
	return nil
}

func mounts() error {
	return errors.Join(mount("proc", "/proc", "proc", 0), mount("sysfs", "/sys", "sysfs", 0), mount("devtmpfs", "/dev", "devtmpfs", 0),
		mount("tmpfs", "/run", "tmpfs", 0), mount("tmpfs", "/tmp", "tmpfs", 0))
}

// network gives the cards their addresses, in the order of their names, which is that of their slots.
func (a *Array) network(addresses []netip.Prefix) error {
	for i, p := range addresses {
		name := fmt.Sprintf("eth%d", i)
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("network card %s: %w", name, err)
		}
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %s on %s: %w", p, name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		a.portals = append(a.portals, san.Portal{Addr: netip.AddrPortFrom(p.Addr(), san.Port), Open: true})
	}
	// One card must not answer for the other's address: a portal whose cable is out would be found by the other way.
	for _, f := range []string{"arp_ignore", "arp_announce"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/"+f, []byte("2"), 0); err != nil {
			return err
		}
	}
	return nil
}

// mountState mounts the state disk, which it formats if there is nothing on it, and tells the target to keep
// registrations there. Every write is on the disk when it has ended: the kernel's target does not flush that file.
func mountState(ctx context.Context, found map[string]disk) error {
	d, ok := found[san.StateDisk]
	if !ok {
		return fmt.Errorf("the machine has no disk with serial number %s", san.StateDisk)
	}
	content, err := filesystem.Linux{}.Identify(d.device)
	if err != nil {
		return fmt.Errorf("state disk: %w", err)
	}
	v := filesystem.Volume{Name: "state", Kind: filesystem.Ext4, UUID: stateUUID}
	if content.Kind == filesystem.Empty {
		if err := (filesystem.Linux{}).Make(ctx, d.device, v, filesystem.Empty); err != nil {
			return fmt.Errorf("state disk: %w", err)
		}
	} else if err := v.Matches(content); err != nil {
		return fmt.Errorf("state disk: %w", err)
	}
	if err := mount(d.device, state, "ext4", unix.MS_SYNCHRONOUS|unix.MS_NOATIME); err != nil {
		return err
	}
	if err := os.MkdirAll(state+"/pr", 0o700); err != nil {
		return err
	}
	return write(config+"/dbroot", state)
}

// Do does what it is told and tells how the array is then.
func (a *Array) Do(o san.Order) (*san.Status, error) {
	var err error
	switch o.Op {
	case san.OpShow:
	case san.OpRestart:
		if err = a.down(); err == nil {
			err = a.up()
		}
	case san.OpLose:
		err = a.lose(o.LUN)
	case san.OpSlow:
		err = a.slow(o.LUN, o.Delay)
	case san.OpRefuse, san.OpAccept:
		err = a.open(o.Portal, o.Op == san.OpAccept)
	case san.OpResize:
		err = a.each(o.LUN, func(l *lun) error { return l.disk.resize(o.Size) })
	case san.OpWithdraw, san.OpPresent:
		err = a.each(o.LUN, func(l *lun) error { return a.present(l, o.Op == san.OpPresent) })
	case san.OpDeny, san.OpAllow:
		err = a.reserve(o.LUN, o.Op == san.OpAllow)
	case san.OpCHAP:
		a.user, a.secret = o.User, o.Secret
		err = a.authenticate()
	default:
		err = fmt.Errorf("it knows no order %q: its image is of another version; 'make image'", o.Op)
	}
	if err != nil {
		return nil, err
	}
	return a.status()
}

// chosen are the LUNs that an order means.
func (a *Array) chosen(number int) ([]*lun, error) {
	if number < 0 {
		return a.luns, nil
	}
	var have []string
	for _, l := range a.luns {
		if l.number == number {
			return []*lun{l}, nil
		}
		have = append(have, fmt.Sprint(l.number))
	}
	return nil, fmt.Errorf("there is no LUN %d; there are %s", number, strings.Join(have, ", "))
}

func (a *Array) lose(number int) error {
	luns, err := a.chosen(number)
	if err != nil {
		return err
	}
	if err := a.down(); err != nil {
		return err
	}
	for _, l := range luns {
		if err := os.Remove(kept(l.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, a.up())
		}
	}
	return a.up()
}

func (a *Array) slow(number int, delay time.Duration) error {
	if delay < 0 || delay > san.MaxDelay {
		return fmt.Errorf("delay %s: must be 0 to %s", delay, san.MaxDelay)
	}
	return a.each(number, func(l *lun) error { return l.disk.set(delay) })
}

// each does something to each LUN that an order means.
func (a *Array) each(number int, do func(*lun) error) error {
	luns, err := a.chosen(number)
	if err != nil {
		return err
	}
	for _, l := range luns {
		if err := do(l); err != nil {
			return fmt.Errorf("LUN %d: %w", l.number, err)
		}
	}
	return nil
}

// reserve begins anew with LUNs that have persistent reservations, or have none.
func (a *Array) reserve(number int, allowed bool) error {
	if err := a.each(number, func(l *lun) error { l.unreserved = !allowed; return nil }); err != nil {
		return err
	}
	if err := a.down(); err != nil {
		return err
	}
	return a.up()
}

func (a *Array) open(portal int, open bool) error {
	if portal < 0 || portal >= len(a.portals) {
		return fmt.Errorf("there is no portal %d; there are %d", portal, len(a.portals))
	}
	p := &a.portals[portal]
	if !open {
		p.Open = false
		return refuse(p.Addr)
	}
	if err := os.MkdirAll(portalOf(p.Addr), 0o755); err != nil {
		return fmt.Errorf("open the portal %s: %w", p.Addr, err)
	}
	p.Open = true
	return nil
}

func (a *Array) status() (*san.Status, error) {
	s := &san.Status{Portals: append([]san.Portal(nil), a.portals...), Up: time.Since(a.begin).Round(time.Second)}
	for _, l := range a.luns {
		st := san.LUN{Number: l.number, Size: l.size(), Withdrawn: l.withdrawn, Unreserved: l.unreserved, WWN: san.WWN(l.number), Serial: san.Serial(l.number), Delay: l.disk.delay}
		if err := describe(&st); err != nil {
			return nil, fmt.Errorf("LUN %d: %w", l.number, err)
		}
		s.LUNs = append(s.LUNs, st)
	}
	var err error
	s.Sessions, err = sessions()
	return s, err
}

// Port opens the machine's virtio-serial port with a name.
func Port(name string) (*os.File, error) {
	ports, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, f := range ports {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(text)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(f)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("the machine has no virtio-serial port %s", name)
}
