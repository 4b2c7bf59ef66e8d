package qemu

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-os/skein/qemu/bmc"
	"github.com/skein-os/skein/qemu/ethernet"
	"github.com/skein-os/skein/qemu/hostnet"
)

// TestControllersAreOnBothLANs: a machine's power controller answers on the host's address of each LAN, from
// the machines' side, with the certificate that the lab tells.
func TestControllersAreOnBothLANs(t *testing.T) {
	l := &Lab{machines: map[string]*Machine{}, change: make(chan struct{}), cfg: Config{Dir: t.TempDir()}}
	var err error
	if l.events, err = newTimeline(filepath.Join(l.cfg.Dir, "events.jsonl"), nil); err != nil {
		t.Fatal(err)
	}
	defer l.events.close()
	var host, guest hostnet.Config
	for lan := range LANs {
		l.switches[lan] = ethernet.New()
		bits := LANPrefix(lan).Bits()
		host.LANs = append(host.LANs, hostnet.LAN{Switch: l.switches[lan], Addr: netip.PrefixFrom(Addr(lan, hostNumber), bits), MAC: MACOf(lan, hostNumber)})
		guest.LANs = append(guest.LANs, hostnet.LAN{Switch: l.switches[lan], Addr: netip.PrefixFrom(Addr(lan, 7), bits), MAC: MACOf(lan, 7)})
	}
	host.Lease = l.lease
	guest.Lease = func(int, ethernet.MAC) (netip.Addr, bool) { return netip.Addr{}, false }
	if l.host, err = hostnet.New(host); err != nil {
		t.Fatal(err)
	}
	defer l.host.Close()
	node, err := hostnet.New(guest)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	m, err := l.define(Node{Name: "n1", Number: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.bmc.close()

	b := l.BMCs()[0]
	if len(b.Addresses) != LANs || b.Mode != bmc.Ok || b.Node != "n1" {
		t.Fatalf("got %+v", b)
	}
	for _, a := range b.Addresses {
		raw, err := node.Dial(t.Context(), netip.MustParseAddrPort(a))
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // the fingerprint is looked at below
		if err := conn.HandshakeContext(context.Background()); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
		if got := hex.EncodeToString(sum[:]); got != b.Fingerprint {
			t.Errorf("%s: got certificate %s, want %s", a, got, b.Fingerprint)
		}
		req, err := http.NewRequest(http.MethodGet, "https://"+a+"/redfish/v1/Systems/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(b.User, b.Password)
		if err := req.Write(conn); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), req)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := resp.Write(&text); err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(text.String(), `"PowerState":"Off"`) {
			t.Errorf("%s: got %s, %v", a, text.String(), err)
		}
		resp.Body.Close()
		conn.Close()
	}
	if err := l.SetBMC("n1", "dance"); err == nil {
		t.Error("an unknown mode was taken")
	}
}
