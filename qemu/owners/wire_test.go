package owners

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/skein-os/skein/qemu/ethernet"
)

var floating = netip.MustParsePrefix("10.77.9.0/24")

func header(kind uint16) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 2, 0, 0, 0, 0, 1)
	return binary.BigEndian.AppendUint16(f, kind)
}

func arp(op byte, sender, target string) []byte {
	f := append(header(typeARP), 0, 1, 8, 0, 6, 4, 0, op, 2, 0, 0, 0, 0, 1)
	f = append(f, netip.MustParseAddr(sender).AsSlice()...)
	return append(append(f, 0, 0, 0, 0, 0, 0), netip.MustParseAddr(target).AsSlice()...)
}

// tcp is a segment from an address with so many bytes of payload; Ethernet pads it to 60 bytes.
func tcp(from string, flags byte, payload int) []byte {
	f := append(header(typeIPv4), 0x45, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(40+payload))
	f = append(f, 0, 0, 0x40, 0, 64, protoTCP, 0, 0)
	f = append(f, netip.MustParseAddr(from).AsSlice()...)
	f = append(f, 10, 77, 0, 254, 0, 80, 0xc0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 5<<4, flags, 1, 0, 0, 0, 0, 0)
	f = append(f, make([]byte, payload)...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

func tagged(f []byte) []byte {
	return append(append(append([]byte{}, f[:12]...), 0x81, 0, 0, 5), f[12:]...)
}

func TestParse(t *testing.T) {
	tests := []struct {
		name  string
		frame []byte
		want  Kind // empty: speaks for no floating address
	}{
		{"gratuitous request", arp(1, "10.77.9.10", "10.77.9.10"), Announcement},
		{"gratuitous reply", arp(2, "10.77.9.10", "10.77.9.10"), Announcement},
		{"reply", arp(2, "10.77.9.10", "10.77.0.254"), ARP},
		{"question in its name", arp(1, "10.77.9.10", "10.77.0.254"), ARP},
		{"question for it", arp(1, "10.77.0.1", "10.77.9.10"), ""},
		{"probe for it (RFC 5227)", arp(1, "0.0.0.0", "10.77.9.10"), ""},
		{"reply of another address", arp(2, "10.77.0.1", "10.77.0.254"), ""},
		{"syn-ack", tcp("10.77.9.10", 0x12, 0), SynAck},
		{"acknowledgement in a padded frame", tcp("10.77.9.10", 0x10, 0), Packet},
		{"data", tcp("10.77.9.10", 0x18, 5), Data},
		{"reset", tcp("10.77.9.10", 0x14, 0), Reset},
		{"data of a node", tcp("10.77.0.1", 0x18, 5), ""},
		{"tagged", tagged(tcp("10.77.9.10", 0x12, 0)), SynAck},
		{"cut short", tcp("10.77.9.10", 0x12, 0)[:33], ""},
		{"ARP cut short", arp(2, "10.77.9.10", "10.77.0.254")[:41], ""},
		{"IPv6", append(header(0x86dd), make([]byte, 60)...), ""},
		{"nothing", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, kind, ok := Parse(tt.frame, floating)
			if ok != (tt.want != "") || ok && (kind != tt.want || got != addr) {
				t.Fatalf("got %v %q %v, want %q for %v", got, kind, ok, tt.want, addr)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(arp(1, "10.77.9.10", "10.77.9.10"))
	f.Add(tcp("10.77.9.10", 0x18, 5))
	f.Add(tagged(tcp("10.77.9.10", 0x12, 0)))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if a, kind, ok := Parse(frame, floating); ok && (!floating.Contains(a) || kind == "") {
			t.Fatalf("got %v %q, want an address of %v and a kind", a, kind, floating)
		}
	})
}

// machine is a port that answers for the address; nobody hears it out.
type machine struct{ port *ethernet.Port }

func (machine) WriteFrames([][]byte) error { return nil }

// TestCatchesARealDoubleOwner: two machines on two switches answer for one address at once, and both are seen,
// although the one that is in the wrong is cut off and no client ever hears it.
func TestCatchesARealDoubleOwner(t *testing.T) {
	w := NewWatch(floating)
	now := start
	w.now = func() time.Time { return now }
	var lans [2]*ethernet.Switch
	for lan := range lans {
		lans[lan] = ethernet.New()
		lans[lan].Tap(w.Tap(lan))
	}
	plug := func(name string, lan int) machine {
		m := machine{lans[lan].Attach(name, machine{})}
		t.Cleanup(m.port.Detach)
		return m
	}
	one, other, two := plug("n1", 0), plug("n1", 1), plug("n2", 0)
	other.port.SetFault(ethernet.Out, ethernet.Fault{Drop: true})

	one.port.Receive(arp(1, "10.77.9.10", "10.77.9.10"))
	now = now.Add(time.Second)
	two.port.Receive(arp(1, "10.77.9.10", "10.77.9.10"))
	now = now.Add(20 * time.Millisecond)
	two.port.Receive(tcp("10.77.9.10", 0x12, 0))
	if got := w.Report(); got.DoubleOwners != 0 || got.Addresses[0].Owner != "n2" || len(got.Addresses[0].Handovers) != 2 {
		t.Fatalf("an honest takeover: got %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan Record, 10)
	followed := make(chan error, 1)
	go func() { followed <- w.Follow(ctx, func(r Record) error { told <- r; return nil }) }()

	now = now.Add(80 * time.Millisecond)
	other.port.Receive(tcp("10.77.9.10", 0x18, 100))
	other.port.Receive(tcp("10.77.9.10", 0x18, 100))
	got := w.Report()
	if got.DoubleOwners != 1 {
		t.Fatalf("two owners at once: got %+v, want one violation", got)
	}
	want := Violation{Time: now, Address: addr, Fault: Overlap, Owner: "n2", Node: "n1", By: Data, LAN: 1, LateMs: 100, Frames: 2}
	if got.Violations[0] != want {
		t.Errorf("got %+v, want %+v", got.Violations[0], want)
	}
	for i := range 3 {
		if r := <-told; (r.Violation != nil) != (i == 2) {
			t.Errorf("record %d: got %+v, want two handovers and the violation", i, r)
		}
	}

	// The one that was cut off comes back, later, and does not say so: first it may still, then it is a return.
	now = now.Add(10 * time.Second)
	other.port.Receive(tcp("10.77.9.10", 0x18, 100))
	if got := w.Report(); got.DoubleOwners != 1 || got.Pending != 1 {
		t.Errorf("just back: got %d violations and %d pending, want 1 and 1", got.DoubleOwners, got.Pending)
	}
	now = now.Add(DefaultLimits().Announce + time.Millisecond)
	if got := w.Report(); got.DoubleOwners != 2 || got.Pending != 0 || got.Violations[1].Fault != Return {
		t.Errorf("never announced: got %+v, want a return", got)
	}
	cancel()
	if err := <-followed; err != nil {
		t.Errorf("end of following: got %v, want nil", err)
	}
}
