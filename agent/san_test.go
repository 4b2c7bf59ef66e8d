package agent

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/store"
	"github.com/skein-os/skein/storage/iscsi"
)

const labTarget = "iqn.2026-01.dev.skein:lab"

func sanPortal(target, addr string) iscsi.Portal {
	return iscsi.Portal{Target: target, Addr: netip.MustParseAddrPort(addr)}
}

func TestNamedPortals(t *testing.T) {
	a, b, c := sanPortal(labTarget, "10.0.1.9:3260"), sanPortal(labTarget, "[fd00::9]:3260"), sanPortal("eui.0123456789abcdef", "10.0.2.9:1")
	got, wrong := namedPortals("quiet skein.san=" + labTarget + "@10.0.1.9,[fd00::9] x=skein.san= skein.san=" + labTarget + "@10.0.1.9 skein.san=eui.0123456789abcdef@10.0.2.9:1\n")
	if want := []iscsi.Portal{a, b, c}; !slices.Equal(got, want) || wrong != nil {
		t.Errorf("got %v, %v, want %v", got, wrong, want)
	}
	got, wrong = namedPortals("skein.san=nothing skein.san=" + labTarget + "@10.0.1.9")
	if !slices.Equal(got, []iscsi.Portal{a}) || len(wrong) != 1 || !strings.Contains(wrong[0], "skein.san=nothing") {
		t.Errorf("got %v, %v", got, wrong)
	}
}

func TestMissingTargets(t *testing.T) {
	a, b, c := sanPortal(labTarget, "10.0.1.9:3260"), sanPortal(labTarget, "10.0.2.9:3260"), sanPortal("iqn.2026-01.x:y", "10.0.3.9:3260")
	status := func(p iscsi.Portal, s iscsi.PortalState, err string) iscsi.Status {
		return iscsi.Status{Target: p.Target, Portal: p.Addr, State: s, Err: err}
	}
	seen := []iscsi.Status{status(a, iscsi.Waiting, "it does not answer"), status(b, iscsi.Ready, ""), status(c, iscsi.Scanning, "")}
	got := missingTargets([]iscsi.Portal{a, b, c}, nil, seen)
	if len(got) != 1 || !strings.Contains(got[0], "iqn.2026-01.x:y") || !strings.Contains(got[0], "10.0.3.9:3260 is not logged in yet") {
		t.Errorf("got %q, want only the target whose disks are not known yet", got)
	}
	seen[1].State = iscsi.Lost
	seen[2].State = iscsi.Ready
	got = missingTargets([]iscsi.Portal{a, b, c}, []string{"not readable"}, seen)
	if len(got) != 2 || got[0] != "not readable" || !strings.Contains(got[1], "it does not answer") || !strings.Contains(got[1], "10.0.2.9:3260 is not logged in yet") {
		t.Errorf("got %q", got)
	}
	if got := missingTargets(nil, nil, seen); got != nil {
		t.Errorf("got %q for nothing", got)
	}
}

func TestLedgerWants(t *testing.T) {
	a, b, c := sanPortal(labTarget, "10.0.1.9:3260"), sanPortal(labTarget, "10.0.2.9:3260"), sanPortal("iqn.2026-01.x:y", "10.0.3.9:3260")
	sans := []cluster.SAN{
		{Name: "lab", IQN: labTarget, Portals: []netip.AddrPort{a.Addr, b.Addr}, User: "u"},
		{Name: "open", IQN: c.Target, Portals: []netip.AddrPort{c.Addr}},
	}
	secrets := map[string]string{"san/lab": "twelve-bytes"}
	read := func(name string) ([]byte, error) {
		if s, ok := secrets[name]; ok {
			return []byte(s), nil
		}
		return nil, store.ErrNoSecret
	}
	chap := &iscsi.CHAP{User: "u", Secret: "twelve-bytes"}
	got, err := ledgerWants([]iscsi.Portal{a}, sans, read)
	if want := []iscsi.Want{{Portal: a, CHAP: chap}, {Portal: b, CHAP: chap}, {Portal: c}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	sans[0].TargetUser, secrets["san/lab/target"] = "array", "of-the-target"
	got, err = ledgerWants(nil, sans, read)
	both := &iscsi.CHAP{User: "u", Secret: "twelve-bytes", TargetUser: "array", TargetSecret: "of-the-target"}
	if want := []iscsi.Want{{Portal: a, CHAP: both}, {Portal: b, CHAP: both}, {Portal: c}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("both ways: got %+v, %v, want %+v", got, err, want)
	}
	// No answer is not "no secret": a login without CHAP would be tried.
	down := errors.New("no quorum")
	if got, err := ledgerWants(nil, sans, func(string) ([]byte, error) { return nil, down }); !errors.Is(err, down) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	delete(secrets, "san/lab")
	if got, err := ledgerWants(nil, sans, read); err != nil || len(got) != 3 || got[0].CHAP.Check() == nil {
		t.Errorf("a secret that is lost: got %v, %v; want a portal that is refused with a reason, and the others", got, err)
	}
}

func TestPortalNews(t *testing.T) {
	a, b := sanPortal(labTarget, "10.0.1.9:3260"), sanPortal(labTarget, "10.0.2.9:3260")
	lost := map[iscsi.Portal]bool{}
	news := func(sa, sb iscsi.PortalState, want ...string) {
		t.Helper()
		seen := []iscsi.Status{{Target: a.Target, Portal: a.Addr, State: sa, Err: "no answer"}, {Target: b.Target, Portal: b.Addr, State: sb}}
		got := portalNews(lost, seen)
		if len(got) != len(want) {
			t.Fatalf("got %+v, want %q", got, want)
		}
		for i, w := range want {
			subject, text, _ := strings.Cut(w, " ")
			if got[i].Subject != subject || !strings.HasSuffix(got[i].Text, text) || !strings.Contains(got[i].Text, labTarget) {
				t.Errorf("got %+v, want %q", got[i], w)
			}
		}
	}
	news(iscsi.Waiting, iscsi.LoggingIn)
	news(iscsi.Waiting, iscsi.Ready)
	news(iscsi.Scanning, iscsi.Lost, "10.0.2.9:3260 is lost")
	news(iscsi.Ready, iscsi.Lost)
	news(iscsi.Lost, iscsi.LoggingOut, "10.0.1.9:3260 is lost") // b is made anew: not back yet
	news(iscsi.Ready, iscsi.Waiting, "10.0.1.9:3260 is back")
	news(iscsi.Ready, iscsi.Ready, "10.0.2.9:3260 is back")
	news(iscsi.Ready, iscsi.Lost, "10.0.2.9:3260 is lost")
	if portalNews(lost, nil) != nil || len(lost) != 0 {
		t.Errorf("got %v, want nothing of portals that are not wanted", lost)
	}
}
