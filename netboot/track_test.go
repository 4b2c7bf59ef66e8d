package netboot

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var discard = slog.New(slog.DiscardHandler)

// TestShapesInTurn: a machine that makes nothing of one kind of offer is given the other.
func TestShapesInTurn(t *testing.T) {
	tr := NewTracker()
	c := Client{MAC: testMAC, Loader: PXE, Firmware: UEFIX64}
	var got []string
	for _, at := range []int{0, 4, 8, 16, 30, 34, 90} { // firmware repeats itself, and begins anew
		shape, _, _ := tr.Asked(time.Duration(at)*time.Second, c)
		got = append(got, shape.String())
	}
	if want := "direct, direct, direct, ask again, direct, direct, ask again"; strings.Join(got, ", ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	// One that went on is answered in the way that worked.
	tr.Reached(100*time.Second, testMAC.String(), self, StageLoader)
	if s, _, _ := tr.Asked(200*time.Second, c); s != ShapeAsk {
		t.Errorf("got %s, want what worked", s)
	}
	if m := tr.Machines()[0]; m.Stage != StageOffered || m.Attempts != 5 || m.Address != self {
		t.Errorf("got %+v", m)
	}
}

func TestStagesOnlyRise(t *testing.T) {
	tr := NewTracker()
	tr.Asked(0, Client{MAC: testMAC, Loader: IPXE, Firmware: BIOS})
	for i, s := range []Stage{StageScript, StageKernel, StageArchive, StageBooted, StageKernel} {
		tr.Reached(time.Duration(i+1)*time.Second, testMAC.String(), self, s)
	}
	if m := tr.Machines()[0]; m.Stage != StageBooted || m.Since != 4*time.Second {
		t.Errorf("got %+v", m)
	}
	tr.Reached(0, "no address", self, StageKernel)
	tr.Refused(9*time.Second, Client{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}, errors.New("why"))
	if all := tr.Machines(); len(all) != 2 || all[0].Stage != StageRefused || all[0].Detail != "why" {
		t.Errorf("got %+v", all)
	}
}

func TestTrackerForgetsStrangers(t *testing.T) {
	tr := NewTracker()
	for i := range maxMachines + 10 {
		tr.Reached(time.Duration(i), net.HardwareAddr{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}.String(), self, StageKernel)
	}
	if n := len(tr.Machines()); n != maxMachines {
		t.Errorf("remembers %d machines, want %d", n, maxMachines)
	}
}

// TestPool: no address is two machines' at a time, whatever they ask for.
func TestPool(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		first := netip.MustParseAddr("10.0.0.10")
		p, err := NewPool(first, netip.MustParseAddr("10.0.0.13"), time.Minute)
		if err != nil {
			rt.Fatal(err)
		}
		type held struct {
			mac   string
			until time.Duration
		}
		leases := map[netip.Addr]held{}
		now := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now += time.Duration(rapid.IntRange(0, 40).Draw(rt, "later")) * time.Second
			mac := fmt.Sprint(rapid.IntRange(1, 6).Draw(rt, "machine"))
			addr := first
			for range rapid.IntRange(0, 5).Draw(rt, "address") { // some are not of the pool
				addr = addr.Next()
			}
			switch rapid.IntRange(0, 4).Draw(rt, "what") {
			case 0, 1:
				got, err := p.Offer(now, mac, addr)
				if h, ok := leases[got]; err == nil && ok && h.mac != mac && h.until >= now {
					rt.Fatalf("%s is offered %s, which %s has until %v (now %v)", mac, got, h.mac, h.until, now)
				}
				if err == nil && !p.has(got) {
					rt.Fatalf("%s is not of the pool", got)
				}
			case 2:
				if p.Take(now, mac, addr) {
					if h, ok := leases[addr]; ok && h.mac != mac && h.until >= now {
						rt.Fatalf("%s takes %s, which %s has until %v (now %v)", mac, addr, h.mac, h.until, now)
					}
					for a, h := range leases { // a machine has one
						if h.mac == mac {
							delete(leases, a)
						}
					}
					leases[addr] = held{mac, now + time.Minute}
				}
			case 3:
				if leases[addr].mac == mac {
					delete(leases, addr)
				}
				p.Release(now, mac, addr)
			case 4:
				if leases[addr].mac == mac {
					delete(leases, addr)
				}
				p.Decline(now, mac, addr)
			}
		}
	})
}

func TestScript(t *testing.T) {
	got := Script([]netip.AddrPort{netip.MustParseAddrPort("10.0.0.5:80"), netip.MustParseAddrPort("10.0.0.6:80")}, testMAC, "console=ttyS0")
	for _, want := range []string{
		"#!ipxe\n",
		"kernel --name kernel --timeout 8000 http://10.0.0.5:80/v1/boot/bzImage?mac=52:54:00:00:00:01 || kernel --name kernel --timeout 8000 http://10.0.0.6:80/",
		"imgargs kernel initrd=archive console=ttyS0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %q in it", got, want)
		}
	}
	if r := Reason("no image for ${net0/mac}; reboot\nshell"); strings.Count(r, "\n") != 4 || strings.ContainsAny(r, "${};") {
		t.Errorf("a stranger's words are a script: %q", r)
	}
}
