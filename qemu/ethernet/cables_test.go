package ethernet

import (
	"bytes"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/lldp"
)

// said waits for what a switch says of itself.
func said(t *testing.T, d *collector) *lldp.Unit {
	t.Helper()
	for {
		if u, err := lldp.Parse(d.next(t)); err == nil {
			return u
		}
	}
}

// TestBridgesKeepTheirOwn: what is for the next bridge goes no further, from 01:80:c2:00:00:00 to 0f.
func TestBridgesKeepTheirOwn(t *testing.T) {
	_, p, d := three(t)
	for last := range byte(0x10) {
		p[0].Receive(frame(MAC{1, 0x80, 0xc2, 0, 0, last}, mac(1), "kept"))
	}
	p[0].Receive(frame(MAC{1, 0x80, 0xc2, 0, 0, 0x10}, mac(1), "passes"))
	for _, i := range []int{1, 2} {
		if got := d[i].next(t); !bytes.HasSuffix(got, []byte("passes")) {
			t.Fatalf("port %d got %q, want only the frame beyond the reserved addresses", i, got)
		}
	}
}

func TestSaysWhoItIs(t *testing.T) {
	a, b := New(), New()
	a.SetName("sw-a", MAC{2, 0, 0, 0, 0, 1}, 5*time.Second)
	b.SetName("sw-b", MAC{2, 0, 0, 0, 0, 2}, 5*time.Second)
	d1, d2 := newCollector(), newCollector()
	p1 := a.Attach("n1", d1)
	defer p1.Detach()
	p2 := a.Attach("n2", d2)
	for i, d := range []*collector{d1, d2} {
		u := said(t, d)
		if want := socketName(i + 1); u.SystemName != "sw-a" || u.PortText() != want || u.Is != lldp.Bridge || u.TTL != 21*time.Second {
			t.Errorf("got %+v, want sw-a on %s", u, want)
		}
	}
	// What a machine says stays at its switch.
	unit := lldp.Unit{Chassis: lldp.ID{Subtype: lldp.ChassisLocal, Value: "m"}, Port: lldp.ID{Subtype: lldp.PortIface, Value: "eth0"}, SystemName: "n1", TTL: time.Minute}
	f, err := unit.Frame(mac(1))
	if err != nil {
		t.Fatal(err)
	}
	p1.Receive(f)
	if got := a.Cables(); len(got) != 2 || got[0].Machine != "n1" || len(got[0].Says) != 1 || got[0].Says[0] != "n1 eth0" || len(got[1].Says) != 0 {
		t.Fatalf("got %+v, want n1 to be known on the first port alone", got)
	}
	// A machine whose power comes back is in the socket that it was in, whoever is there first.
	p1.SetFault(In, Fault{Drop: true})
	p2.Detach()
	p2 = a.Attach("n3", newCollector())
	defer p2.Detach()
	d3 := newCollector()
	p3 := a.Attach("n2", d3)
	defer p3.Detach()
	if p3.Socket() != "swp2" || p2.Socket() != "swp3" {
		t.Errorf("got n2 in %s and n3 in %s, want swp2 and swp3", p3.Socket(), p2.Socket())
	}
	said(t, d3)
	// Moved, it is heard in the other LAN only.
	p3.Move(b)
	if u := said(t, d3); u.SystemName != "sw-b" || u.PortText() != "swp1" {
		t.Errorf("after the move: got %+v, want sw-b", u)
	}
	d4 := newCollector()
	p4 := b.Attach("n4", d4)
	defer p4.Detach()
	said(t, d4)
	p3.Receive(frame(broadcast, mac(2), "there"))
	if got := d4.next(t); !bytes.HasSuffix(got, []byte("there")) {
		t.Fatalf("got %q, want the frame of the port that was moved", got)
	}
	p4.Receive(frame(broadcast, mac(4), "back"))
	if got := d3.next(t); !bytes.HasSuffix(got, []byte("back")) {
		t.Fatalf("got %q, want the frame in the new LAN", got)
	}
	p3.Move(a)
	if p3.Socket() != "swp2" {
		t.Errorf("moved back: got %s, want the socket it was in", p3.Socket())
	}
	// A cable that lets nothing in lets this nothing in, too.
	before := p1.Stats().Faulted
	a.Announce()
	if got := p1.Stats().Faulted; got != before+1 {
		t.Errorf("a silent port: got %d frames lost, want %d", got, before+1)
	}
}
