package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// Sys is a sysfs tree with the device files that belong to it.
type Sys struct {
	Root string // /sys
	Dev  string // /dev
}

// Kernel is this machine's.
var Kernel = Sys{Root: "/sys", Dev: "/dev"}

// sectorSize is the unit of /sys/class/block/*/size, whatever the disk's block size is.
const sectorSize = 512

var (
	session  = regexp.MustCompile(`/(session[0-9]+)/`)
	fcTarget = regexp.MustCompile(`/rport-[^/]+/(target[0-9:]+)/`)
	hctl     = regexp.MustCompile(`^[0-9]+:[0-9]+:[0-9]+:[0-9]+$`)
	diskName = regexp.MustCompile(`^(sd[a-z]+|vd[a-z]+|nvme[0-9]+(c[0-9]+)?n[0-9]+)$`)
)

// Scan lists the disks, by WWN, paths by name. A device that goes away meanwhile is left out.
func (s Sys) Scan() ([]Disk, error) {
	dir := filepath.Join(s.Root, "class/block")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for disks: %w", err)
	}
	byWWN := map[string]*Disk{}
	var all []*Disk
	for _, e := range entries {
		if !diskName.MatchString(e.Name()) {
			continue // partitions, maps, loop devices
		}
		d, err := s.read(e.Name())
		if errors.Is(err, fs.ErrNotExist) || err == nil && d == nil {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at disk %s: %w", e.Name(), err)
		}
		have := byWWN[d.WWN]
		if have == nil || d.WWN == "" {
			byWWN[d.WWN] = d
			all = append(all, d)
			continue
		}
		have.Paths = append(have.Paths, d.Paths...)
		if d.Size > 0 && (have.Size == 0 || d.Size < have.Size) {
			have.Size = d.Size
		}
	}
	sort.SliceStable(all, func(i, k int) bool { return all[i].WWN < all[k].WWN })
	out := make([]Disk, 0, len(all))
	for _, d := range all {
		out = append(out, *d)
	}
	return out, nil
}

// read returns a disk with the one path of that name, nil for what is no disk (a CD drive).
func (s Sys) read(name string) (*Disk, error) {
	block := filepath.Join(s.Root, "class/block", name)
	real, err := filepath.EvalSymlinks(block)
	if err != nil {
		return nil, err
	}
	p := Path{Name: name, Transport: "scsi"}
	d := &Disk{}
	if p.Dev, err = text(block, "dev"); err != nil {
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(name, "nvme") {
			return nil, nil // a path of a subsystem, which has no device number of its own
		}
		return nil, err
	}
	sectors, err := number(block, "size")
	if err != nil {
		return nil, err
	}
	p.Size = sectors * sectorSize
	size, err := number(block, "queue/logical_block_size")
	if err != nil {
		return nil, err
	}
	d.BlockSize = int(size)
	dev := filepath.Join(block, "device")
	d.Vendor, d.Model = optional(dev, "vendor"), optional(dev, "model")
	switch {
	case strings.HasPrefix(name, "vd"):
		p.Transport, p.State, d.Vendor = "virtio", "running", "virtio"
		if d.Serial = optional(block, "serial"); d.Serial != "" {
			p.WWN = "virtio." + d.Serial
		}
	case strings.HasPrefix(name, "nvme"):
		p.Transport, p.WWN, d.Serial, d.Vendor = "nvme", wwid(optional(block, "wwid")), optional(dev, "serial"), "nvme"
		p.State, p.Target, p.Portal = optional(dev, "state"), optional(dev, "subsysnqn"), optional(dev, "address")
	default:
		at, err := filepath.EvalSymlinks(dev)
		if err != nil {
			return nil, err
		}
		if p.HCTL = filepath.Base(at); !hctl.MatchString(p.HCTL) {
			return nil, fmt.Errorf("it is at %q, which is no SCSI address", p.HCTL)
		}
		p.State, p.WWN = optional(dev, "state"), wwid(optional(dev, "wwid"))
		d.Serial = pageSerial(optional(dev, "vpd_pg80"))
		s.transport(real, &p)
	}
	d.WWN, d.Size, d.Paths = p.WWN, p.Size, []Path{p}
	return d, nil
}

// transport finds out by what the SCSI device is attached, from its place in the tree of devices.
func (s Sys) transport(real string, p *Path) {
	if m := session.FindStringSubmatch(real); m != nil {
		p.Transport = "iscsi"
		p.Target = optional(filepath.Join(s.Root, "class/iscsi_session", m[1]), "targetname")
		conn := filepath.Join(s.Root, "class/iscsi_connection", strings.Replace(m[1], "session", "connection", 1)+":0")
		// persistent_address is the portal that was asked for; address may be where it was redirected to.
		if a := optional(conn, "persistent_address"); a != "" {
			p.Portal = net.JoinHostPort(a, optional(conn, "persistent_port"))
		}
		return
	}
	if m := fcTarget.FindStringSubmatch(real); m != nil {
		p.Transport, p.Target = "fc", optional(filepath.Join(s.Root, "class/fc_transport", m[1]), "port_name")
		return
	}
	if strings.Contains(real, "/end_device-") {
		p.Transport = "sas"
	} else if strings.Contains(real, "/virtio") {
		p.Transport = "virtio"
	}
}

// wwid of the kernel's has spaces in T10 names as the device pads them.
func wwid(s string) string { return strings.Join(strings.Fields(strings.Trim(s, "\x00")), "_") }

// pageSerial takes the serial number out of VPD page 0x80 (SPC-4 7.8.15): four bytes of header before it.
func pageSerial(page string) string {
	if len(page) < 4 {
		return ""
	}
	n := min(int(page[2])<<8|int(page[3]), len(page)-4)
	return strings.Trim(page[4:4+n], " \x00\n")
}

func text(dir, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimRight(string(data), " \n"), err
}

// optional is for what not every device has, or no more while it goes away.
func optional(dir, name string) string {
	s, err := text(dir, name)
	if err != nil {
		return ""
	}
	return s
}

func number(dir, name string) (int64, error) {
	s, err := text(dir, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is %q, want a number", name, s)
	}
	return n, nil
}
