package netboot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// Loader is which program of a machine asks.
type Loader string

const (
	PXE      Loader = "pxe"  // the firmware's PXE
	HTTPBoot Loader = "http" // UEFI's HTTP Boot
	IPXE     Loader = "ipxe" // iPXE, from the card's ROM or given by us before
)

// Firmware is what a machine can start.
type Firmware string

const (
	BIOS      Firmware = "bios"
	UEFIX64   Firmware = "uefi-x64"
	UEFIArm64 Firmware = "uefi-arm64"
)

// Client is a machine that asks to be booted.
type Client struct {
	MAC      net.HardwareAddr
	UUID     string // of its SMBIOS table, in the form that firmware set-ups show; empty if it did not tell
	Loader   Loader
	Firmware Firmware
	Arch     iana.Arch // as it said it (option 93)
}

// Why a message is not answered.
var (
	// ErrNoBoot: it does not ask to be booted, as most DHCP messages do not.
	ErrNoBoot = errors.New("no request to be booted")
	// ErrUnsupported: there is nothing to boot such a machine with.
	ErrUnsupported = errors.New("nothing here boots such a machine")
)

// Identify reads who asks. The message is a DISCOVER or a REQUEST. Errors are ErrNoBoot, ErrUnsupported (the client is
// filled in as far as it goes) or say what is malformed.
func Identify(m *dhcpv4.DHCPv4) (Client, error) {
	c := Client{MAC: m.ClientHWAddr}
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return c, ErrNoBoot
	}
	class := m.ClassIdentifier()
	switch {
	case strings.HasPrefix(class, "PXEClient"):
		c.Loader = PXE
	case strings.HasPrefix(class, "HTTPClient"):
		c.Loader = HTTPBoot
	default:
		return c, ErrNoBoot
	}
	if len(m.ClientHWAddr) != 6 {
		return c, fmt.Errorf("a hardware address of %d bytes, want Ethernet's 6", len(m.ClientHWAddr))
	}
	if raw := m.Options.Get(dhcpv4.OptionClientMachineIdentifier); len(raw) > 0 {
		if len(raw) != 17 || raw[0] != 0 {
			return c, fmt.Errorf("option 97 of %d bytes, type %d: want 17 and type 0 (RFC 4578, 2.3)", len(raw), raw[0])
		}
		c.UUID = uuidText(raw[1:])
	}
	arches := m.ClientArch()
	if len(arches) == 0 {
		return c, fmt.Errorf("%s says no architecture (option 93)", class)
	}
	c.Arch = arches[0]
	for _, user := range m.UserClass() {
		if strings.Contains(user, "iPXE") {
			c.Loader = IPXE
		}
	}
	switch c.Arch {
	case iana.INTEL_X86PC:
		c.Firmware = BIOS
	case iana.EFI_X86_64, iana.EFI_BC, iana.EFI_X86_64_HTTP, iana.EFI_BC_HTTP:
		c.Firmware = UEFIX64
	case iana.EFI_ARM64, iana.EFI_ARM64_HTTP:
		c.Firmware = UEFIArm64
	default:
		return c, fmt.Errorf("%w: %s", ErrUnsupported, c.Arch)
	}
	return c, nil
}

// uuidText writes a UUID as SMBIOS and option 97 have it: the first three fields begin with their lowest byte.
func uuidText(b []byte) string {
	order := []int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}
	o := make([]byte, 16)
	for i, from := range order {
		o[i] = b[from]
	}
	h := hex.EncodeToString(o)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
