package lldp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func sample() Unit {
	return Unit{Chassis: ID{ChassisMAC, "\x52\x54\x00\x77\xfe\x01"}, Port: ID{PortIface, "swp3"}, TTL: 121 * time.Second,
		PortDescription: "to n3", SystemName: "sw-a", SystemDescription: "a switch", Can: Bridge | Router, Is: Bridge,
		Management: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}, VLAN: 20, MaxFrame: 1522}
}

// The bytes are made by hand after IEEE 802.1AB-2016, 8.4 and 8.5.
func TestParseByHand(t *testing.T) {
	frame, err := hex.DecodeString("0180c200000e52540077fe0188cc" +
		"020704" + "52540077fe01" + // chassis: MAC
		"040505" + "73777033" + // port: interface name
		"06020079" + // 121 s
		"0a0473772d61" + // system name
		"0e0400140004" + // bridge and router, bridge
		"100c0501c0000201010000000000" + // 192.0.2.1
		"fe060080c2010014" + // VLAN 20
		"fe0600120f0405f2" + // frames of 1522 bytes
		"fe05001abbccdd" + // somebody's
		"0000")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(frame)
	want := sample()
	want.PortDescription, want.SystemDescription, want.Management = "", "", want.Management[:1]
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Fatalf("got %+v, %v, want %+v", got, err, want)
	}
	if got.ChassisText() != "52:54:00:77:fe:01" || got.PortText() != "swp3" {
		t.Errorf("got chassis %q port %q", got.ChassisText(), got.PortText())
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := func(name string) ID {
			return ID{rapid.Byte().Draw(t, name+" subtype"), string(rapid.SliceOfN(rapid.Byte(), 1, 255).Draw(t, name))}
		}
		text := func(name string) string {
			return clean(rapid.StringOfN(rapid.RuneFrom([]rune("abc-ÄÖ .:/_0")), 0, 80, 200).Draw(t, name))
		}
		u := Unit{Chassis: id("chassis"), Port: id("port"), TTL: time.Duration(rapid.IntRange(0, 65535).Draw(t, "ttl")) * time.Second,
			PortDescription: text("description"), SystemName: text("name"), SystemDescription: text("system"),
			VLAN: uint16(rapid.IntRange(0, 4094).Draw(t, "vlan")), MaxFrame: rapid.IntRange(0, 65535).Draw(t, "frame")}
		if u.Can = Capabilities(rapid.Uint16().Draw(t, "can")); u.Can != 0 {
			u.Is = Capabilities(rapid.Uint16().Draw(t, "is"))
		}
		for range rapid.IntRange(0, mostAddresses).Draw(t, "addresses") {
			u.Management = append(u.Management, netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address"))))
		}
		frame, err := u.Frame([6]byte{2, 0, 0, 0, 0, 1})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Parse(frame); err != nil || !reflect.DeepEqual(*got, u) {
			t.Fatalf("got %+v, %v, want %+v", got, err, u)
		}
	})
}

func TestRefused(t *testing.T) {
	good := sample()
	frame, err := good.Frame([6]byte{})
	if err != nil {
		t.Fatal(err)
	}
	head := frame[:headerBytes]
	for name, body := range map[string]string{
		"nothing": "", "no port": "020704525400770001", "port first": "0405057377703302070452540077fe01",
		"no TTL": "0207045254007700010405057377703300", "TTL of one byte": "020704525400770001" + "04050573777033" + "060100",
		"chassis twice": "020704525400770001" + "04050573777033" + "06020079" + "020704525400770001",
		"too long":      "02ff04525400770001", "no name": "020104" + "04050573777033" + "06020079",
	} {
		raw, err := hex.DecodeString(body)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if u, err := Parse(append(bytes.Clone(head), raw...)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v, want it refused", name, u, err)
		}
	}
	for n := range headerBytes + 9 + 7 + 4 { // the end need not be there, what must be comes first
		if _, err := Parse(frame[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut off after %d bytes: got %v, want it refused", n, err)
		}
	}
	for name, u := range map[string]Unit{
		"no chassis": {Port: good.Port}, "long name": {Chassis: good.Chassis, Port: good.Port, SystemName: strings.Repeat("x", 256)},
		"long TTL": {Chassis: good.Chassis, Port: good.Port, TTL: 65536 * time.Second},
	} {
		if _, err := u.Frame([6]byte{}); err == nil {
			t.Errorf("%s: encoded, want an error", name)
		}
	}
}

// What a stranger says is printed on somebody's terminal.
func TestTextIsClean(t *testing.T) {
	u := sample()
	u.SystemName, u.Port = "sw\x1b[2Ja\x00", ID{PortIface, "x\x1b]0;y\a"}
	frame, err := u.Frame([6]byte{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(frame)
	if err != nil || got.SystemName != "sw?[2Ja" || got.PortText() != "x?]0;y?" {
		t.Errorf("got %q, port %q, %v", got.SystemName, got.PortText(), err)
	}
	if id := (ID{ChassisLocal, "\xff\xfe"}); id.text(ChassisMAC, ChassisAddr) != "fffe" {
		t.Errorf("got %q, want bytes that are no text in hexadecimal", id.text(ChassisMAC, ChassisAddr))
	}
}

func TestTable(t *testing.T) {
	var table Table
	a, b := sample(), sample()
	b.Port.Value = "swp1"
	steps := []struct {
		at      time.Duration
		u       *Unit
		changed bool
		ports   string
	}{
		{0, &a, true, "swp3"},
		{time.Second, &a, false, "swp3"}, // renewed until 122 s
		{2 * time.Second, &b, true, "swp1 swp3"},
		{122 * time.Second, nil, true, "swp1"},
		{123 * time.Second, nil, true, ""},
	}
	for i, st := range steps {
		changed := false
		if st.u != nil {
			changed = table.Receive(st.at, st.u)
		} else {
			changed = table.Expire(st.at)
		}
		var ports []string
		for _, u := range table.List() {
			ports = append(ports, u.Port.Value)
		}
		if got := strings.Join(ports, " "); changed != st.changed || got != st.ports {
			t.Errorf("step %d: got %v %q, want %v %q", i, changed, got, st.changed, st.ports)
		}
	}
	table.Receive(0, &a)
	renamed := a
	renamed.SystemName = "other"
	if !table.Receive(0, &renamed) || table.Receive(0, &renamed) {
		t.Error("a new name must be a change, and only once")
	}
	if at, ok := table.Next(); !ok || at != 121*time.Second {
		t.Errorf("next: got %v %v, want 121s", at, ok)
	}
	bye := Unit{Chassis: a.Chassis, Port: a.Port}
	if !table.Receive(time.Second, &bye) || len(table.List()) != 0 {
		t.Error("a goodbye must remove the neighbour")
	}
	if table.Receive(time.Second, &bye) {
		t.Error("a goodbye of somebody unknown is no change")
	}
	for i := range 100 {
		u := a
		u.Port.Value = strings.Repeat("x", i+1)
		table.Receive(time.Second, &u)
	}
	if n := len(table.List()); n != mostNeighbours || table.TooMany != 100-mostNeighbours {
		t.Errorf("a flood: got %d neighbours and %d refused, want %d and %d", n, table.TooMany, mostNeighbours, 100-mostNeighbours)
	}
}

func TestSchedule(t *testing.T) {
	var s Schedule
	if s.Due(0) {
		t.Error("spoke on a port that is down")
	}
	var at []time.Duration
	s.Hurry(0)
	for now := time.Duration(0); now < 100*time.Second; now += 250 * time.Millisecond {
		if now == 40*time.Second || now == 40250*time.Millisecond {
			s.Changed(now)
		}
		if s.Due(now) {
			at = append(at, now)
		}
	}
	want := []time.Duration{0, 1, 2, 3, 33, 40, 41, 71}
	for i := range want {
		want[i] *= time.Second
	}
	if !reflect.DeepEqual(at, want) {
		t.Errorf("spoke at %v, want %v", at, want)
	}
	s.Down()
	s.Changed(200 * time.Second)
	if _, ok := s.Next(); ok || s.Due(300*time.Second) {
		t.Error("spoke on a port that went down")
	}
}

func FuzzParse(f *testing.F) {
	u := sample()
	frame, err := u.Frame([6]byte{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(frame[:headerBytes])
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("got %v, want it to be ErrMalformed", err)
			}
			return
		}
		for _, text := range []string{u.SystemName, u.PortDescription, u.SystemDescription, u.ChassisText(), u.PortText()} {
			if clean(text) != text {
				t.Fatalf("text %q is not clean", text)
			}
		}
		if u.ChassisText() == "" || u.PortText() == "" {
			t.Fatalf("no name: %+v", u)
		}
		again, err := u.Frame([6]byte{})
		if err != nil {
			t.Fatalf("what was read cannot be said: %v", err)
		}
		if back, err := Parse(again); err != nil || back.Chassis != u.Chassis || back.Port != u.Port || back.TTL != u.TTL {
			t.Fatalf("got %+v, %v, want %+v", back, err, u)
		}
	})
}
