package iscsi

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const iqn = "iqn.2026-01.dev.skein:lab"

func portal(s string) Portal { return Portal{iqn, netip.MustParseAddrPort(s)} }

func TestParseSAN(t *testing.T) {
	got, err := ParseSAN(iqn + "@10.0.1.9,10.0.2.9:3261,[fd00::9],[fd00::a]:1")
	want := []Portal{portal("10.0.1.9:3260"), portal("10.0.2.9:3261"), portal("[fd00::9]:3260"), portal("[fd00::a]:1")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for value, want := range map[string]string{
		"":                           "no @",
		iqn:                          "no @",
		"lab@10.0.1.9":               `"lab" is not an iSCSI name`,
		"iqn.2026-13.dev:x@10.0.1.9": "not an iSCSI name",
		iqn + "@":                    "not an IP address",
		iqn + "@san1":                "not an IP address",
		iqn + "@fd00::9":             "must be in brackets",
		iqn + "@[fd00::9":            "brackets",
		iqn + "@[10.0.1.9]":          "not one of a portal",
		iqn + "@0.0.0.0":             "not one of a portal",
		iqn + "@10.0.1.9:0":          "port",
		iqn + "@10.0.1.9:":           "port",
		iqn + "@10.0.1.9,10.0.1.9":   "twice",
		iqn + "@10.0.1.9:70000":      "port",
		iqn + "@10.0.1.9,":           "not an IP address",
		iqn + "@[fd00::9]3260":       "brackets",
		iqn + "@10.0.1.9@10.0.2.9":   "not an IP address",
		iqn + strings.Repeat("x", 230) + "@10.0.1.9": "not an iSCSI name",
	} {
		if got, err := ParseSAN(value); err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%s: got %v, %v, want an error with %q", value, got, err, want)
		}
	}
}

func FuzzParseSAN(f *testing.F) {
	f.Add(iqn + "@10.0.1.9,[fd00::9]:3260")
	f.Add("eui.0123456789abcdef@[fe80::1%eth0]:1")
	f.Fuzz(func(t *testing.T, value string) {
		got, err := ParseSAN(value)
		if (err == nil) != (len(got) > 0) {
			t.Fatalf("got %v, %v", got, err)
		}
		if err != nil {
			return
		}
		again := got[0].Target + "@"
		for i, p := range got {
			again += strings.Repeat(",", min(i, 1)) + p.Addr.String()
		}
		if b, err := ParseSAN(again); err != nil || !slices.Equal(b, got) {
			t.Errorf("%q: got %v, and from %q %v, %v", value, got, again, b, err)
		}
	})
}

func TestReconcile(t *testing.T) {
	a, b, c := portal("10.0.1.9:3260"), portal("10.0.2.9:3260"), portal("10.0.3.9:3260")
	want := []Portal{a, b}
	var r Reconciler
	t0 := time.Unix(1000, 0)
	check := func(after time.Duration, seen []Session, again time.Duration, steps ...Step) {
		t.Helper()
		got, at := r.Next(t0.Add(after), want, seen)
		for i := range got {
			got[i].Why = ""
		}
		wantAt := time.Time{}
		if again > 0 {
			wantAt = t0.Add(again)
		}
		if !slices.Equal(got, steps) || !at.Equal(wantAt) {
			t.Errorf("after %v: got %v, again %v, want %v, %v", after, got, at, steps, wantAt)
		}
	}
	in := func(p Portal, id int) Session { return Session{p, id, LoggedIn} }
	login := func(p Portal) Step { return Step{Do: Login, Portal: p} }
	out := func(p Portal, id int) Step { return Step{Do: Logout, Portal: p, ID: id} }
	check(0, nil, 0, login(a), login(b))
	r.Refused(t0, b)
	check(0, []Session{in(a, 1)}, time.Second)
	check(time.Second, []Session{in(a, 1)}, 0, login(b))
	r.Refused(t0.Add(time.Second), b)
	check(time.Second, nil, 3*time.Second, login(a)) // b's trouble is not a's
	check(3*time.Second, []Session{in(a, 1), in(b, 2)}, 0)
	check(3*time.Second, []Session{in(a, 1), in(b, 2), in(c, 3), in(a, 4)}, 0, out(a, 4), out(c, 3))
	lost := []Session{in(a, 1), {b, 2, Failed}}
	check(4*time.Second, lost, 4*time.Second+StuckAfter)
	check(5*time.Second, lost, 4*time.Second+StuckAfter)
	check(4*time.Second+StuckAfter, lost, 0, out(b, 2))
	check(5*time.Second+StuckAfter, []Session{in(a, 1), in(b, 2)}, 0) // it came back: forgotten
	check(6*time.Second+StuckAfter, lost, 6*time.Second+2*StuckAfter)
}

// A logout that does not work is tried again later, and the others meanwhile.
func TestStayed(t *testing.T) {
	a, b := portal("10.0.1.9:3260"), portal("10.0.2.9:3260")
	var r Reconciler
	t0 := time.Unix(1000, 0)
	seen := []Session{{a, 1, LoggedIn}, {b, 2, LoggedIn}}
	if steps, again := r.Next(t0, nil, seen); len(steps) != 2 || !again.IsZero() {
		t.Fatalf("got %v, %v", steps, again)
	}
	r.Stayed(t0, 1)
	if steps, again := r.Next(t0, nil, seen); len(steps) != 1 || steps[0].ID != 2 || !again.Equal(t0.Add(FirstRetry)) {
		t.Errorf("got %v, %v", steps, again)
	}
	r.Stayed(t0, 1)
	if steps, again := r.Next(t0.Add(FirstRetry), nil, seen[:1]); len(steps) != 0 || !again.Equal(t0.Add(2*FirstRetry)) {
		t.Errorf("got %v, %v", steps, again)
	}
	r.Next(t0, nil, nil) // it has gone: forgotten
	if steps, _ := r.Next(t0, nil, seen[:1]); len(steps) != 1 {
		t.Errorf("got %v", steps)
	}
}

func TestRetryIsBounded(t *testing.T) {
	var r Reconciler
	now, p := time.Unix(0, 0), portal("10.0.1.9:3260")
	for range 100 {
		r.Refused(now, p)
	}
	if _, at := r.Next(now, []Portal{p}, nil); at.Sub(now) != MaxRetry {
		t.Errorf("got %v, want %v", at.Sub(now), MaxRetry)
	}
}

func TestSessions(t *testing.T) {
	root := t.TempDir()
	if got, err := Sessions(root); got != nil || err != nil {
		t.Errorf("no module: got %v, %v", got, err)
	}
	for f, v := range map[string]string{
		"iscsi_session/session7/targetname": iqn, "iscsi_session/session7/state": "FAILED",
		"iscsi_connection/connection7:0/persistent_address": "fd00::9", "iscsi_connection/connection7:0/persistent_port": "3260",
		"iscsi_session/session8/targetname": iqn, // being made
	} {
		f = filepath.Join(root, "class", f)
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f, []byte(v+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := []Session{{portal("[fd00::9]:3260"), 7, Failed}}
	if got, err := Sessions(root); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}
