package netboot

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	testMAC = net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}
	self    = netip.MustParseAddr("10.0.0.5")
	all     = Site{HTTPPort: 80, Unified: true, Loaders: true}
)

// question is what firmware sends.
func question(t testing.TB, kind dhcpv4.MessageType, class string, arch iana.Arch, user string) *dhcpv4.DHCPv4 {
	t.Helper()
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(testMAC),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)), dhcpv4.WithOption(dhcpv4.OptClientArch(arch)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0},
			0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff))),
	}
	if user != "" {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(user))))
	}
	m, err := dhcpv4.New(mods...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBootFile(t *testing.T) {
	const pxe, http = "PXEClient:Arch:00007:UNDI:003016", "HTTPClient:Arch:00016:UNDI:003001"
	for _, tt := range []struct {
		name, class string
		arch        iana.Arch
		user        string
		site        Site
		want        string
		err         error
	}{
		{"BIOS", "PXEClient", iana.INTEL_X86PC, "", all, "52-54-00-00-00-01/undionly.kpxe", nil},
		{"UEFI", pxe, iana.EFI_X86_64, "", all, "52-54-00-00-00-01/snponly.efi", nil},
		{"UEFI as BC", pxe, iana.EFI_BC, "", all, "52-54-00-00-00-01/snponly.efi", nil},
		{"UEFI without iPXE", pxe, iana.EFI_X86_64, "", Site{Unified: true}, "52-54-00-00-00-01/skein.efi", nil},
		{"UEFI, nothing for it", pxe, iana.EFI_X86_64, "", Site{}, "", ErrUnsupported},
		{"HTTP Boot", http, iana.EFI_X86_64_HTTP, "", all, "http://10.0.0.5/v1/boot/skein.efi?mac=52%3A54%3A00%3A00%3A00%3A01", nil},
		{"HTTP Boot without the unified image", http, iana.EFI_X86_64_HTTP, "", Site{Loaders: true}, "", ErrUnsupported},
		{"iPXE on BIOS", "PXEClient", iana.INTEL_X86PC, "iPXE", all, "http://10.0.0.5/v1/ipxe?mac=52%3A54%3A00%3A00%3A00%3A01", nil},
		{"iPXE on UEFI, class as RFC 3004 has it", pxe, iana.EFI_X86_64, "\x04iPXE", Site{HTTPPort: 8080}, "http://10.0.0.5:8080/v1/ipxe?mac=52%3A54%3A00%3A00%3A00%3A01", nil},
		{"arm64", pxe, iana.EFI_ARM64, "", all, "", ErrUnsupported},
		{"32 bit", pxe, iana.EFI_IA32, "", all, "", ErrUnsupported},
		{"no boot", "dhcpcd-9", iana.INTEL_X86PC, "", all, "", ErrNoBoot},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Identify(question(t, dhcpv4.MessageTypeDiscover, tt.class, tt.arch, tt.user))
			got := ""
			if err == nil {
				got, err = tt.site.BootFile(c, self)
			}
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestUUIDAsFirmwareShowsIt(t *testing.T) {
	c, err := Identify(question(t, dhcpv4.MessageTypeDiscover, "PXEClient", iana.INTEL_X86PC, ""))
	if err != nil || c.UUID != "00112233-4455-6677-8899-aabbccddeeff" {
		t.Errorf("got %q, %v", c.UUID, err)
	}
}

// TestProxyOffer: what firmware is known to need (each line cost somebody a day).
func TestProxyOffer(t *testing.T) {
	for _, tt := range []struct {
		class  string
		arch   iana.Arch
		shape  Shape
		vendor []byte
		back   string
	}{
		{"PXEClient", iana.EFI_X86_64, ShapeDirect, []byte{6, 1, 8, 255}, "PXEClient"},
		{"PXEClient", iana.EFI_X86_64, ShapeAsk, nil, "PXEClient"},
		{"HTTPClient", iana.EFI_X86_64_HTTP, ShapeDirect, nil, "HTTPClient"},
	} {
		req := question(t, dhcpv4.MessageTypeDiscover, tt.class, tt.arch, "")
		c, err := Identify(req)
		if err != nil {
			t.Fatal(err)
		}
		r, err := all.Offer(req, c, self, tt.shape)
		if err != nil {
			t.Fatal(err)
		}
		r, err = dhcpv4.FromBytes(r.ToBytes()) // as it is read
		if err != nil {
			t.Fatal(err)
		}
		file, _ := all.BootFile(c, self)
		switch {
		case !r.YourIPAddr.IsUnspecified():
			t.Errorf("a proxy gives address %v", r.YourIPAddr)
		case r.TransactionID != req.TransactionID, !bytes.Equal(r.ClientHWAddr, testMAC), r.MessageType() != dhcpv4.MessageTypeOffer:
			t.Errorf("got %v, want an offer to the question", r)
		case r.BootFileName != file, r.BootFileNameOption() != file, r.TFTPServerName() != "10.0.0.5", !r.ServerIPAddr.Equal(self.AsSlice()):
			t.Errorf("got file %q and %q, want %q in header and option", r.BootFileName, r.BootFileNameOption(), file)
		case r.ClassIdentifier() != tt.back, !r.ServerIdentifier().Equal(self.AsSlice()):
			t.Errorf("got class %q from %v", r.ClassIdentifier(), r.ServerIdentifier())
		case !bytes.Equal(r.Options.Get(dhcpv4.OptionVendorSpecificInformation), tt.vendor):
			t.Errorf("%s, %s: got option 43 %v, want %v", tt.class, tt.shape, r.Options.Get(dhcpv4.OptionVendorSpecificInformation), tt.vendor)
		case !bytes.Equal(r.Options.Get(dhcpv4.OptionClientMachineIdentifier), req.Options.Get(dhcpv4.OptionClientMachineIdentifier)):
			t.Error("option 97 is not said back")
		}
	}
}

func TestFullGivesAddressAndFile(t *testing.T) {
	req := question(t, dhcpv4.MessageTypeRequest, "PXEClient", iana.INTEL_X86PC, "iPXE")
	c, err := Identify(req)
	if err != nil {
		t.Fatal(err)
	}
	l := Lease{Address: netip.MustParsePrefix("10.0.0.77/20"), Router: netip.MustParseAddr("10.0.0.1"), DNS: []netip.Addr{self}, Seconds: 600}
	r, err := all.Full(req, &c, self, l)
	if err != nil {
		t.Fatal(err)
	}
	if r.MessageType() != dhcpv4.MessageTypeAck || r.YourIPAddr.String() != "10.0.0.77" || net.IP(r.SubnetMask()).String() != "255.255.240.0" ||
		r.Router()[0].String() != "10.0.0.1" || !strings.HasPrefix(r.BootFileName, "http://10.0.0.5/v1/ipxe") ||
		!bytes.Equal(r.Options.Get(iPXEOptions), noPXEDHCP) {
		t.Errorf("got %s", r.Summary())
	}
	if r, err = all.Full(req, nil, self, l); err != nil || r.BootFileName != "" {
		t.Errorf("to a machine that does not boot: got %q, %v", r.BootFileName, err)
	}
}

// FuzzIdentify: whatever comes in, the answer is an answer or an error.
func FuzzIdentify(f *testing.F) {
	f.Add(question(f, dhcpv4.MessageTypeDiscover, "PXEClient", iana.EFI_X86_64, "iPXE").ToBytes())
	f.Add(question(f, dhcpv4.MessageTypeRequest, "HTTPClient", iana.EFI_X86_64_HTTP, "").ToBytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		req, err := dhcpv4.FromBytes(data)
		if err != nil {
			return
		}
		s := Server{cfg: Config{}, site: all, tracker: NewTracker()}
		s.cfg.Log, s.cfg.Changed = discard, func(Machine) {}
		if r := s.answer(req, Interface{"eth0", netip.PrefixFrom(self, 24)}); r != nil {
			if _, err := dhcpv4.FromBytes(r.ToBytes()); err != nil {
				t.Errorf("an answer that cannot be read: %v", err)
			}
		}
		p, err := NewPool(netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.0.20"), 3600e9)
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.Pool = p
		s.answer(req, Interface{"eth0", netip.PrefixFrom(self, 24)})
	})
}
