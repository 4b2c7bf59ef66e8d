package main

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/iscsi"
)

func TestViewSANs(t *testing.T) {
	a, b, c := netip.MustParseAddrPort("10.0.1.9:3260"), netip.MustParseAddrPort("10.0.2.9:3260"), netip.MustParseAddrPort("[fd00::9]:3260")
	now := time.Unix(1000, 0)
	const lab, old = "iqn.2026-01.dev.skein:lab", "iqn.2026-01.dev.skein:old"
	in := func(target string, p netip.AddrPort, s iscsi.PortalState, err string) iscsi.Status {
		return iscsi.Status{Target: target, Portal: p, State: s, Err: err, Since: now.Add(-12 * time.Second)}
	}
	nodes := []api.NodeSAN{
		{Node: "n1", Initiator: "i1", Portals: []iscsi.Status{in(lab, a, iscsi.Ready, ""), in(lab, b, iscsi.Lost, "no answer"), in(old, c, iscsi.Ready, "")}},
		{Node: "n2", Initiator: "i2", Portals: []iscsi.Status{in(lab, a, iscsi.Ready, "")}},
		{Node: "n3"},
	}
	views := viewSANs([]cluster.SAN{{Name: "main", IQN: lab, Portals: []netip.AddrPort{a, b}}}, nodes, []error{nil, nil, errors.New("deadline")})
	if len(views) != 2 || views[0].IQN != old || views[0].Name != "" || views[1].Name != "main" || len(views[1].Nodes) != 3 || views[1].Nodes[2].Err != "deadline" {
		t.Fatalf("got %+v", views)
	}
	want := []sanRow{
		{a.String(), "2 of 3", "n3 does not answer: deadline"},
		{b.String(), "0 of 3", "n1: failed for 12s: no answer"},
		{"", "", "n2: not logged in"},
		{"", "", "n3 does not answer: deadline"},
	}
	if got := views[1].rows(now); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := views[0].rows(now); len(got) != 2 || got[0].portal != c.String() || got[0].nodes != "1 of 3" {
		t.Errorf("got %+v", got)
	}
	if got := viewSANs(nil, nil, nil); got == nil || len(got) != 0 {
		t.Errorf("got %v, want an empty list", got)
	}
}
