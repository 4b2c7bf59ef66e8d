package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/skein-os/skein/images/uki"
	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/netboot"
	"github.com/skein-os/skein/qemu/ethernet"
)

// Netboot says how machines boot from the network.
type Netboot struct {
	Image    string           `json:"image"`    // folder of `skein image build`
	Firmware netboot.Firmware `json:"firmware"` // BIOS or UEFIX64
	// Unified has UEFI load the unified image itself, not iPXE and that kernel and archive.
	Unified bool `json:"unified,omitempty"`
	// First: the lab boots machines up to this number, and gives the others an address only: the cluster boots them. 0: it boots all.
	First int `json:"first,omitempty"`
}

// ovmf is UEFI for virtual machines, from Debian's package ovmf.
const ovmfCode, ovmfVars = "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"

// bootPort is where the lab gives files by HTTP, on its own address of each LAN.
const bootPort = 80

// bootServer is the lab's host as the one who boots machines: what `skein netboot serve` does on real networks.
type bootServer struct {
	lab     *Lab
	cfg     Netboot
	folder  netboot.Folder
	site    netboot.Site
	unified []byte // nil: that of the folder
	begin   time.Time

	mu      sync.Mutex
	tracker *netboot.Tracker
	closers []io.Closer
	wg      sync.WaitGroup
}

func newBootServer(l *Lab, cfg Netboot) (*bootServer, error) {
	folder, err := netboot.NewFolder(cfg.Image)
	if err != nil {
		return nil, err
	}
	switch cfg.Firmware {
	case netboot.BIOS:
	case netboot.UEFIX64:
		if _, err := os.Stat(ovmfCode); err != nil {
			return nil, fmt.Errorf("UEFI machines need Debian's package ovmf: %w", err)
		}
	default:
		return nil, fmt.Errorf("machines with firmware %q: want %s or %s", cfg.Firmware, netboot.BIOS, netboot.UEFIX64)
	}
	b := &bootServer{lab: l, cfg: cfg, folder: folder, site: folder.Site(bootPort), begin: time.Now(), tracker: netboot.NewTracker()}
	if cfg.Unified {
		b.site.Loaders = false
		b.unified, err = unify(cfg.Image, l.cmdline())
	}
	return b, err
}

// unify makes the unified image around the lab's command line: firmware gives it no other.
func unify(image, cmdline string) ([]byte, error) {
	p := uki.Parts{Cmdline: cmdline, OSRelease: "ID=skein\n"}
	for name, to := range map[string]*[]byte{initramfs.StubName: &p.Stub, netboot.KernelFile: &p.Kernel, netboot.ArchiveFile: &p.Initrd} {
		var err error
		if *to, err = os.ReadFile(filepath.Join(image, name)); err != nil {
			return nil, err
		}
	}
	return uki.Join(p)
}

// open gives a file of the image.
func (b *bootServer) open(name string) (netboot.File, error) {
	if name == netboot.UnifiedFile && b.unified != nil {
		return readFile{bytes.NewReader(b.unified), b.begin}, nil
	}
	return b.folder.Open(name)
}

// readFile is a file in memory.
type readFile struct {
	*bytes.Reader
	made time.Time
}

func (readFile) Close() error         { return nil }
func (m readFile) ModTime() time.Time { return m.made }

func (b *bootServer) start() error {
	files := &netboot.Files{Open: b.open, Reached: b.reached, Script: func(mac net.HardwareAddr, _, self netip.Addr) string {
		return netboot.Script([]netip.AddrPort{netip.AddrPortFrom(self, bootPort)}, mac, b.lab.cmdline())
	}}
	for lan := range LANs {
		l, err := b.lab.host.Listen(lan, bootPort)
		if err != nil {
			return err
		}
		h := netboot.NewHTTPServer(files)
		b.closers = append(b.closers, h)
		b.wg.Go(func() {
			if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				b.lab.cfg.Log.Warn("the lab's boot server has ended", "lan", lan, "err", err)
			}
		})
		conn, err := b.lab.host.ListenPacket(lan, 69)
		if err != nil {
			return err
		}
		t := files.TFTP(func() (net.PacketConn, error) { return b.lab.host.ListenPacket(lan, 0) }, nil)
		b.closers = append(b.closers, conn)
		b.wg.Go(func() { _ = t.Serve(conn); t.Close() }) // ends with the socket
	}
	return nil
}

func (b *bootServer) close() {
	for _, c := range b.closers {
		_ = c.Close()
	}
	b.wg.Wait()
}

// decorate tells a machine that boots from the network what to start.
func (b *bootServer) decorate(lan int, req, reply *dhcpv4.DHCPv4) {
	c, err := netboot.Identify(req)
	if errors.Is(err, netboot.ErrNoBoot) {
		return
	}
	if b.cfg.First > 0 && b.number(c.MAC) > b.cfg.First {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Since(b.begin)
	if err == nil {
		err = b.site.Boot(reply, req, c, Addr(lan, hostNumber), netboot.ShapeDirect)
	}
	if err != nil {
		b.tracker.Refused(now, c, err)
		b.tell(c.MAC.String(), err.Error())
		return
	}
	b.tracker.Asked(now, c)
}

func (b *bootServer) reached(mac string, from netip.Addr, s netboot.Stage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tracker.Reached(time.Since(b.begin), mac, from, s)
	b.tell(mac, string(s))
}

// number is that of the machine with a card of this address, 0 if there is none.
func (b *bootServer) number(mac net.HardwareAddr) int {
	for _, m := range b.lab.list() {
		for lan := range LANs {
			if len(mac) == 6 && MACOf(lan, m.node.Number) == ethernet.MAC(mac) {
				return m.node.Number
			}
		}
	}
	return 0
}

// tell writes how far a machine got into the timeline.
func (b *bootServer) tell(mac, text string) {
	for _, m := range b.lab.list() {
		for lan := range LANs {
			if hw, err := net.ParseMAC(mac); err == nil && len(hw) == 6 && MACOf(lan, m.node.Number) == ethernet.MAC(hw) {
				b.lab.events.add(m.node.Name, EventBoot, text)
			}
		}
	}
}

// card is what differs for a network card that boots: its ROM is there, and it is tried in its turn.
func (b *bootServer) card(lan int) string {
	if b.cfg.Firmware == netboot.BIOS {
		return fmt.Sprintf(",bootindex=%d", lan+1)
	}
	return fmt.Sprintf(",romfile=,bootindex=%d", lan+1) // the firmware's own driver, PXE and HTTP Boot
}

// firmware is QEMU's arguments for the firmware. Without a screen SeaBIOS and what it starts talk to the serial port.
func (b *bootServer) firmware() []string {
	args := []string{"-machine", "graphics=off"}
	if b.cfg.Firmware == netboot.UEFIX64 {
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode,
			"-drive", "if=pflash,format=raw,snapshot=on,file="+ovmfVars)
	}
	return args
}
