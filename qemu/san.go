package qemu

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/skein-os/skein/qemu/target"
)

// SAN makes a machine the lab's SAN.
type SAN struct {
	Initrd string   // its own archive
	Disks  []string // images, LUN 0 first
	State  string   // image of the disk that keeps reservations
}

// SANName and SANNumber are the SAN machine's.
const (
	SANName   = "san"
	SANNumber = 200
)

// sanMemoryMB is the SAN machine's memory.
const sanMemoryMB = 256

// stateSize is that of the disk with the reservations, bytes.
const stateSize = 16 << 20

// NewSAN makes a SAN machine with disks in a folder, sizes in bytes. Disks that are there already are kept, and
// never made smaller.
func NewSAN(folder, initrd string, sizes ...int64) (Node, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return Node{}, fmt.Errorf("make the SAN's folder: %w", err)
	}
	s := &SAN{Initrd: initrd, State: filepath.Join(folder, "state.img")}
	if err := diskImage(s.State, stateSize); err != nil {
		return Node{}, err
	}
	for i, size := range sizes {
		name := filepath.Join(folder, fmt.Sprintf("lun%d.img", i))
		if err := diskImage(name, size); err != nil {
			return Node{}, err
		}
		s.Disks = append(s.Disks, name)
	}
	return Node{Name: SANName, Number: SANNumber, SAN: s}, nil
}

// diskImage makes a sparse file of at least that size.
func diskImage(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("disk of the SAN: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.Size() < size {
		err = f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("disk of the SAN: %w", err)
	}
	return nil
}

// SANPortals are the addresses at which the SAN machine answers.
func SANPortals() []netip.AddrPort {
	var all []netip.AddrPort
	for lan := range LANs {
		all = append(all, netip.AddrPortFrom(Addr(lan, SANNumber), target.Port))
	}
	return all
}

// SANParameter is the kernel parameter that tells a node of the SAN.
func SANParameter() string {
	var at []string
	for _, p := range SANPortals() {
		at = append(at, p.Addr().String())
	}
	return "skein.san=" + target.IQN + "@" + strings.Join(at, ",")
}

// arguments are those of the SAN machine's QEMU in the place of a node's kernel. Its disks' caches are the host's: what the
// machine was told to be written stays when its power is cut.
func (s *SAN) arguments(l *Lab, number int) []string {
	var addresses []string
	for lan := range LANs {
		addresses = append(addresses, netip.PrefixFrom(Addr(lan, number), LANPrefix(lan).Bits()).String())
	}
	args := []string{"-kernel", l.cfg.Kernel, "-initrd", s.Initrd, "-append", kernelArgs + " skein.san.addresses=" + strings.Join(addresses, ",")}
	add := func(file, serial string) {
		args = append(args, "-drive", "if=none,format=raw,cache=writeback,discard=unmap,id="+serial+",file="+strings.ReplaceAll(file, ",", ",,"),
			"-device", "virtio-blk-pci,drive="+serial+",serial="+serial)
	}
	add(s.State, target.StateSerial)
	for i, d := range s.Disks {
		add(d, fmt.Sprintf("lun%d", i))
	}
	return args
}

func (l *Lab) memoryMB(m *Machine) int {
	if m.node.SAN != nil {
		return sanMemoryMB
	}
	return l.cfg.MemoryMB
}
