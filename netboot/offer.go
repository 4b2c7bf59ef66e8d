package netboot

import (
	"fmt"
	"net/netip"
	"net/url"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Files that a server has, by the names under which it gives them.
const (
	KernelFile  = "bzImage"
	ArchiveFile = "initramfs.cpio.zst"
	UnifiedFile = "skein.efi"     // kernel and archive in one signed program for UEFI (a UKI)
	IPXEBIOS    = "undionly.kpxe" // iPXE that uses the network card by the firmware's driver
	IPXEUEFI    = "snponly.efi"   // the same for UEFI

	bootPath   = "/v1/boot/"
	scriptPath = "/v1/ipxe"
)

// Shape is how a proxy tells firmware's PXE what to boot.
type Shape int

const (
	ShapeDirect Shape = iota // in the offer: option 43 says that nothing else need be asked
	ShapeAsk                 // the firmware asks again, on port 4011
)

func (s Shape) String() string { return [...]string{"direct", "ask again"}[s] }

// maxURL is what the file field of a DHCP message holds, with its final zero: some firmware reads nothing else.
const maxURL = 127

// Site is what a server has to give.
type Site struct {
	HTTPPort uint16
	// Unified: there is a unified image, which UEFI machines start without iPXE.
	Unified bool
	// Loaders: there are the iPXE programs for PXE.
	Loaders bool
}

// httpURL is where a file is on this server.
func (s Site) httpURL(self netip.Addr, path string, query url.Values) string {
	u := url.URL{Scheme: "http", Host: self.String(), Path: path, RawQuery: query.Encode()}
	if s.HTTPPort != 80 {
		u.Host = netip.AddrPortFrom(self, s.HTTPPort).String()
	}
	return u.String()
}

// BootFile is what the client starts next: a URL, or a name to ask for by TFTP. The error says what is missing.
func (s Site) BootFile(c Client, self netip.Addr) (string, error) {
	query := url.Values{"mac": {c.MAC.String()}}
	tftp := func(name string) (string, error) { return tftpName(c.MAC, name), nil }
	switch {
	case c.Loader == IPXE && c.Firmware != UEFIArm64:
		return s.httpURL(self, scriptPath, query), nil
	case c.Firmware == UEFIArm64:
		return "", fmt.Errorf("%w: %s: there is no image for arm64", ErrUnsupported, c.Arch)
	case c.Loader == HTTPBoot && c.Firmware == UEFIX64 && s.Unified:
		return s.httpURL(self, bootPath+UnifiedFile, query), nil
	case c.Loader == PXE && c.Firmware == UEFIX64 && s.Loaders:
		return tftp(IPXEUEFI)
	case c.Loader == PXE && c.Firmware == UEFIX64 && s.Unified:
		return tftp(UnifiedFile)
	case c.Loader == PXE && c.Firmware == BIOS && s.Loaders:
		return tftp(IPXEBIOS)
	}
	return "", fmt.Errorf("%w: %s by %s: no file for it here (unified image: %v, iPXE: %v)", ErrUnsupported, c.Firmware, c.Loader, s.Unified, s.Loaders)
}

// pxeDiscoveryControl is option 43, sub-option 6, of PXE 2.1: 8 is "boot the file of this offer, ask nobody else".
var pxeDiscoveryControl = []byte{6, 1, 8, 255}

// noPXEDHCP is iPXE's option 175, sub-option 176: no proxy need be waited for.
var noPXEDHCP = []byte{176, 1, 1}

// Boot adds to a reply what the client is to boot. The reply is an offer or acknowledgement for req; self is our address on
// the network it came from.
func (s Site) Boot(reply, req *dhcpv4.DHCPv4, c Client, self netip.Addr, shape Shape) error {
	file, err := s.BootFile(c, self)
	if err != nil {
		return err
	}
	if len(file) > maxURL {
		return fmt.Errorf("the name of the boot file has %d bytes, and %d at most fit a DHCP message: %s", len(file), maxURL, file)
	}
	// Header and options, since each is all that some firmware reads.
	reply.ServerIPAddr = self.AsSlice()
	reply.ServerHostName = self.String()
	reply.BootFileName = file
	reply.UpdateOption(dhcpv4.OptTFTPServerName(self.String()))
	reply.UpdateOption(dhcpv4.OptBootFileName(file))
	class := "PXEClient"
	if c.Loader == HTTPBoot {
		class = "HTTPClient" // without it HTTP Boot takes no notice of the answer
	}
	reply.UpdateOption(dhcpv4.OptClassIdentifier(class))
	if raw := req.Options.Get(dhcpv4.OptionClientMachineIdentifier); len(raw) > 0 {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, raw))
	}
	if c.Loader == IPXE || c.Loader == PXE && shape == ShapeDirect {
		reply.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, pxeDiscoveryControl))
	}
	return nil
}

// Offer is a proxy's whole answer to a DISCOVER, or to a REQUEST on port 4011: it boots the machine and gives no address.
func (s Site) Offer(req *dhcpv4.DHCPv4, c Client, self netip.Addr, shape Shape) (*dhcpv4.DHCPv4, error) {
	kind := dhcpv4.MessageTypeOffer
	if req.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	reply, err := dhcpv4.NewReplyFromRequest(req,
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.AsSlice())),
	)
	if err != nil {
		return nil, err
	}
	return reply, s.Boot(reply, req, c, self, shape)
}

// Lease is what a server that gives addresses tells beside the boot file.
type Lease struct {
	Address netip.Prefix // with the length of the network
	Router  netip.Addr   // may be missing
	DNS     []netip.Addr
	Seconds uint32
}

// Full is the answer of a server that gives addresses: to a DISCOVER, or an acknowledgement of a REQUEST. A machine that
// does not ask to be booted (c nil) is given an address only.
func (s Site) Full(req *dhcpv4.DHCPv4, c *Client, self netip.Addr, l Lease) (*dhcpv4.DHCPv4, error) {
	kind := dhcpv4.MessageTypeOffer
	if req.MessageType() == dhcpv4.MessageTypeRequest {
		kind = dhcpv4.MessageTypeAck
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.AsSlice())),
		dhcpv4.WithServerIP(self.AsSlice()),
		dhcpv4.WithYourIP(l.Address.Addr().AsSlice()),
		dhcpv4.WithNetmask(mask(l.Address.Bits())),
		dhcpv4.WithLeaseTime(l.Seconds),
	}
	if l.Router.IsValid() {
		mods = append(mods, dhcpv4.WithRouter(l.Router.AsSlice()))
	}
	for _, d := range l.DNS {
		mods = append(mods, dhcpv4.WithDNS(d.AsSlice()))
	}
	reply, err := dhcpv4.NewReplyFromRequest(req, mods...)
	if err != nil || c == nil {
		return reply, err
	}
	reply.UpdateOption(dhcpv4.OptGeneric(iPXEOptions, noPXEDHCP))
	return reply, s.Boot(reply, req, *c, self, ShapeDirect)
}

// iPXEOptions is the option in which iPXE has its own ones.
const iPXEOptions = dhcpv4.GenericOptionCode(175)

func mask(bits int) []byte {
	m := ^uint32(0) << (32 - bits)
	return []byte{byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
}
