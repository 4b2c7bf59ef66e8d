package iscsi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/storage/disk"
)

func TestRecord(t *testing.T) {
	p := portal("[fd00::9]:3261")
	if got, want := recordPath("/etc/iscsi", p), "/etc/iscsi/nodes/"+iqn+"/fd00::9,3261"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, c := range []struct {
		chap    *CHAP
		has, no []string
	}{
		{nil, []string{"node.name = " + iqn, "node.conn[0].address = fd00::9", "node.conn[0].port = 3261", "authmethod = None", "replacement_timeout = 1",
			"noop_out_interval = 1", "noop_out_timeout = 2", "login_timeout = 5", "node.session.scan = manual"}, []string{"password", "username"}},
		{&CHAP{User: "u", Secret: "s#x y"}, []string{"authmethod = CHAP", "auth.username = u", "auth.password = s#x y"}, []string{"name_in", "word_in"}},
		{&CHAP{"u", "s", "tu", "ts"}, []string{"auth.username_in = tu", "auth.password_in = ts"}, nil},
	} {
		text := recordText(Want{p, c.chap})
		for _, s := range c.has {
			if !strings.Contains(text, s+"\n") {
				t.Errorf("%v: no %q in\n%s", c.chap, s, text)
			}
		}
		for _, s := range c.no {
			if strings.Contains(text, s) {
				t.Errorf("%v: %q in\n%s", c.chap, s, text)
			}
		}
	}
	if strings.Contains(configText(), "iscsid.startup") {
		t.Error("iscsiadm would start an iscsid of its own")
	}
}

func TestCheckWant(t *testing.T) {
	const secret = "never-quoted-1"
	ok := portal("10.0.1.9:3260")
	for _, w := range []Want{{ok, nil}, {ok, &CHAP{User: "u", Secret: secret}}, {ok, &CHAP{"u", secret, "t", "another"}},
		{Portal{"eui.0123456789abcdef", ok.Addr}, nil}, {Portal{"iqn.2001-04.com.Example:UPPER_case", ok.Addr}, nil}} {
		if err := w.Check(); err != nil {
			t.Errorf("%v: %v", w, err)
		}
	}
	for _, w := range []Want{
		{Portal{iqn, netip.AddrPort{}}, nil}, {Portal{"", ok.Addr}, nil}, {Portal{"../../x", ok.Addr}, nil}, {Portal{"iqn.a/b", ok.Addr}, nil},
		{Portal{"iqn.a\nb", ok.Addr}, nil}, {Portal{"iqn.a\x00", ok.Addr}, nil}, {Portal{"..", ok.Addr}, nil},
		{ok, &CHAP{User: "u"}}, {ok, &CHAP{Secret: secret}}, {ok, &CHAP{"u", secret, "t", ""}}, {ok, &CHAP{"u", secret, "t", secret}},
		{ok, &CHAP{User: "u", Secret: secret + "\nnode.name = x"}}, {ok, &CHAP{User: "u", Secret: secret + " "}}, {ok, &CHAP{User: "=u", Secret: secret}},
		{ok, &CHAP{User: `"u`, Secret: secret}}, {ok, &CHAP{User: "ü", Secret: secret}}, {ok, &CHAP{User: "u", Secret: strings.Repeat(secret, 30)}},
	} {
		err := w.Check()
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%v: got %v", w, err)
		}
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		w := Want{ok, &CHAP{"u", secret, "t", "another-secret"}}
		if s := fmt.Sprintf(format, w) + fmt.Sprintf(format, *w.CHAP); strings.Contains(s, secret) || strings.Contains(s, "another-secret") {
			t.Errorf("%s prints a secret: %s", format, s)
		}
	}
}

func TestInitiatorName(t *testing.T) {
	if got, err := InitiatorName("web-1a2b", "n1"); err != nil || got != "iqn.2026-01.dev.skein:web-1a2b:n1" {
		t.Errorf("got %s, %v", got, err)
	}
	for _, n := range [][2]string{{"web", "N 1"}, {"", strings.Repeat("n", 220)}} {
		if got, err := InitiatorName(n[0], n[1]); err == nil {
			t.Errorf("%v: got %s", n, got)
		}
	}
}

func TestParseDiscovery(t *testing.T) {
	got, err := parseDiscovery("10.0.1.9:3260,1 " + iqn + "\n[fd00::9]:3261,2 " + iqn + "\n10.0.2.9:3260,-1 eui.0123456789abcdef\n")
	want := []Portal{portal("10.0.1.9:3260"), portal("[fd00::9]:3261"), {"eui.0123456789abcdef", netip.MustParseAddrPort("10.0.2.9:3260")}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"x", "10.0.1.9:3260 " + iqn, "10.0.1.9:3260,1", "10.0.1.9:3260,1 name with spaces", "san1:3260,1 " + iqn, "10.0.1.9:3260,x " + iqn} {
		if got, err := parseDiscovery(bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

func FuzzParseDiscovery(f *testing.F) {
	f.Add("10.0.1.9:3260,1 " + iqn + "\n[fd00::9]:3261,2 " + iqn)
	f.Fuzz(func(t *testing.T, out string) {
		list, err := parseDiscovery(out)
		if err != nil && list != nil {
			t.Fatalf("got %v, %v", list, err)
		}
		for _, p := range list {
			if err := (Want{Portal: p}).Check(); err != nil {
				t.Errorf("%q: %v could not be logged in to: %v", out, p, err)
			}
		}
	})
}

func TestParsePIDs(t *testing.T) {
	if got, err := parsePIDs("12\n345\n"); err != nil || !slices.Equal(got, []int{12, 345}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"0", "-1", "x"} { // kill(2) takes them for many
		if got, err := parsePIDs(bad); err == nil {
			t.Errorf("%q: got %v", bad, got)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		exit         int
		stderr, want string
	}{
		{24, "iscsiadm: Could not login to [iface: default, target: x, portal: 127.0.0.1,3260].\niscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure)\niscsiadm: Could not log into all portals\n", "CHAP"},
		{8, "iscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure)\n", "error 24"},
		{8, "", "does not answer (open-iscsi's error 8)"},
		{11, "iscsiadm: cannot make connection to 127.0.0.1: Connection refused\niscsiadm: connection login retries (reopen_max) 1 exceeded\n", "no connection to 127.0.0.1: Connection refused (open-iscsi's error 11)"},
		{99, "iscsiadm: first\niscsiadm: second\n\n", "error 99: second"},
		{99, "iscsiadm: initiator reported error (99 - something)", "error 99: something"},
		{99, "", "no reason given"},
	} {
		if got := explain(c.exit, c.stderr); !strings.Contains(got, c.want) {
			t.Errorf("%d %q: got %q, want %q", c.exit, c.stderr, got, c.want)
		}
	}
}

func FuzzExplain(f *testing.F) {
	f.Add(24, "iscsiadm: initiator reported error (24 - iSCSI login failed due to authorization failure)")
	f.Fuzz(func(t *testing.T, exit int, stderr string) {
		if got := explain(exit, stderr); got == "" || strings.Contains(got, "\n") {
			t.Errorf("got %q", got)
		}
	})
}

func TestDellTarget(t *testing.T) {
	for name, want := range map[string]bool{iqn: true, "iqn.2026-01.dev.skein": false, "eui.0123456789abcdef": false, "iqn.2026-01.x:a;b": false} {
		if got := dellTarget.MatchString(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

// fakeSAN is a sysfs tree in which logins make sessions.
type fakeSAN struct {
	t    *testing.T
	root string

	mu      sync.Mutex
	next    int
	refuse  map[Portal]error
	logins  []Portal
	logouts []int
	stay    bool
}

func (f *fakeSAN) login(_ context.Context, p Portal) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins = append(f.logins, p)
	if err := f.refuse[p]; err != nil {
		return err
	}
	f.next++
	f.session(f.next, p)
	return nil
}

func (f *fakeSAN) session(id int, p Portal) {
	s, host := fmt.Sprintf("session%d", id), fmt.Sprintf("host%d", id)
	dir := filepath.Join(f.root, "devices/platform", host, s)
	files := map[string]string{
		filepath.Join(dir, "targetname"): p.Target, filepath.Join(dir, "state"): string(LoggedIn), filepath.Join(dir, "recovery_tmo"): "120",
		filepath.Join(f.root, "class/scsi_host", host, "scan"): "",
	}
	conn := filepath.Join(f.root, "class/iscsi_connection", fmt.Sprintf("connection%d:0", id))
	files[filepath.Join(conn, "persistent_address")] = p.Addr.Addr().String()
	files[filepath.Join(conn, "persistent_port")] = fmt.Sprint(p.Addr.Port())
	for name, text := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text+"\n"), 0o600)); err != nil {
			f.t.Error(err)
		}
	}
	class := filepath.Join(f.root, "class/iscsi_session")
	if err := errors.Join(os.MkdirAll(class, 0o755), os.Symlink(dir, filepath.Join(class, s))); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeSAN) logout(_ context.Context, id int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logouts = append(f.logouts, id)
	if f.stay {
		return &failure{10, "the target did not take the logout"}
	}
	return os.Remove(filepath.Join(f.root, "class/iscsi_session", fmt.Sprintf("session%d", id)))
}

func (f *fakeSAN) discover(_ context.Context, p netip.AddrPort) ([]Portal, error) {
	return []Portal{{iqn, p}}, nil
}

// startFake runs an Initiator on a fake.
func startFake(t *testing.T, f *fakeSAN) *Initiator {
	t.Helper()
	f.t, f.root = t, t.TempDir()
	for _, d := range []string{"class/block", "bus/scsi/devices"} {
		if err := os.MkdirAll(filepath.Join(f.root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	i := newInitiator(Config{Name: "iqn.2026-01.dev.skein:c:n", Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, filepath.Join(t.TempDir(), "iscsi"))
	i.locks = filepath.Join(t.TempDir(), "lock")
	i.sys, i.tools = disk.Sys{Root: f.root, Dev: t.TempDir()}, f
	i.daemon = func(ctx context.Context) { <-ctx.Done() }
	i.ready = func(context.Context) error { return nil }
	i.load = func() error { return nil }
	return i
}

func run(t *testing.T, i *Initiator) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); i.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func await(t *testing.T, i *Initiator, what string, ok func([]Status) bool) []Status {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		if s := i.Status(); ok(s) {
			return s
		} else if time.Since(begin) > 30*time.Second {
			t.Fatalf("not %s: %+v", what, s)
		}
	}
}

func in(list []Status, p Portal) *Status {
	for k := range list {
		if list[k].Target == p.Target && list[k].Portal == p.Addr {
			return &list[k]
		}
	}
	return nil
}

func TestInitiator(t *testing.T) {
	a, b := portal("10.0.1.9:3260"), portal("[fd00::9]:3260")
	f := &fakeSAN{refuse: map[Portal]error{b: &failure{24, "the target refused the CHAP user or secret"}}}
	i := startFake(t, f)
	run(t, i)
	bad := Portal{"x/y", a.Addr}
	i.Want([]Want{{a, nil}, {b, &CHAP{User: "u", Secret: "secret"}}, {bad, nil}}, true)
	s := await(t, i, "one in, one refused", func(s []Status) bool {
		return len(s) == 3 && in(s, a).State == Ready && in(s, b).State == Waiting && in(s, b).Err != "" && in(s, bad).Err != ""
	})
	if x := in(s, bad); !strings.Contains(x.Err, `"x/y" is not an iSCSI name`) {
		t.Errorf("got %+v", x)
	}
	if x := in(s, a); x.Session != 1 || x.Err != "" || x.Since.IsZero() {
		t.Errorf("got %+v", x)
	}
	if x := in(s, b); !strings.Contains(x.Err, "[fd00::9]:3260") || !strings.Contains(x.Err, iqn) || !strings.Contains(x.Err, "CHAP") {
		t.Errorf("got %+v", x)
	}
	if st, err := os.Stat(recordPath(i.dir, a)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("record: %v, %v", st, err)
	}
	if _, err := os.Stat(recordPath(i.dir, b)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of a refused login, with its secret: %v", err)
	}
	if data, err := os.ReadFile(filepath.Join(f.root, "class/scsi_host/host1/scan")); err != nil || string(data[:5]) != "- - -" {
		t.Errorf("scan: %q, %v", data, err)
	}
	// The target lets b in, and the reconciler tries again by itself.
	f.mu.Lock()
	f.refuse = nil
	f.mu.Unlock()
	await(t, i, "both in", func(s []Status) bool { return in(s, b).State == Ready && in(s, b).Err == "" })
	// A lost connection shows, and its end.
	state := filepath.Join(f.root, "class/iscsi_session/session1/state")
	write(t, state, "FAILED")
	await(t, i, "lost", func(s []Status) bool { return in(s, a).State == Lost && in(s, a).Err != "" && in(s, b).State == Ready })
	write(t, state, "LOGGED_IN")
	await(t, i, "back", func(s []Status) bool { return in(s, a).State == Ready && in(s, a).Err == "" })
	write(t, filepath.Join(f.root, "class/iscsi_session/session1/recovery_tmo"), "120")
	await(t, i, "time limit", func([]Status) bool {
		data, _ := os.ReadFile(filepath.Join(f.root, "class/iscsi_session/session1/recovery_tmo"))
		return strings.TrimSpace(string(data)) == "1"
	})
	// A logout that does not work is told, and tried again.
	f.mu.Lock()
	f.stay = true
	f.mu.Unlock()
	i.Want([]Want{{b, nil}}, true)
	await(t, i, "still there", func(s []Status) bool { return len(s) == 2 && strings.Contains(in(s, a).Err, "did not take") })
	f.mu.Lock()
	f.stay = false
	f.mu.Unlock()
	await(t, i, "gone", func(s []Status) bool { return len(s) == 1 })
	if _, err := os.Stat(recordPath(i.dir, a)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("record: %v", err)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A node whose agent was restarted must not end sessions before it knows what its ledger wants.
func TestInitiatorAdopts(t *testing.T) {
	a, b := portal("10.0.1.9:3260"), portal("10.0.2.9:3260")
	f := &fakeSAN{}
	i := startFake(t, f)
	f.session(1, a)
	f.session(2, b)
	gone := portal("10.0.3.9:3260") // an agent that died left its record
	for _, p := range []Portal{b, gone} {
		if err := i.remember(Want{p, nil}); err != nil {
			t.Fatal(err)
		}
	}
	run(t, i)
	i.Want([]Want{{a, nil}}, false)
	await(t, i, "adopted", func(s []Status) bool { return len(s) == 1 && in(s, a).State == Ready })
	i.Want([]Want{{a, nil}}, false) // another turn
	await(t, i, "adopted", func(s []Status) bool { return len(s) == 1 && in(s, a).Session == 1 })
	f.mu.Lock()
	if len(f.logins)+len(f.logouts) != 0 {
		t.Errorf("logins %v, logouts %v", f.logins, f.logouts)
	}
	f.mu.Unlock()
	for _, p := range []Portal{b, gone} {
		if _, err := os.Stat(recordPath(i.dir, p)); err != nil {
			t.Errorf("before all that is wanted is known: %v", err)
		}
	}
	i.Want([]Want{{a, nil}}, true)
	for begin := time.Now(); ; time.Sleep(2 * time.Millisecond) {
		f.mu.Lock()
		n := slices.Clone(f.logouts)
		f.mu.Unlock()
		if slices.Equal(n, []int{2}) {
			break
		} else if len(n) > 1 || time.Since(begin) > 30*time.Second {
			t.Fatalf("logouts %v, want 2", n)
		}
	}
	await(t, i, "swept", func([]Status) bool {
		_, errB := os.Stat(recordPath(i.dir, b))
		_, errGone := os.Stat(recordPath(i.dir, gone))
		return errors.Is(errB, os.ErrNotExist) && errors.Is(errGone, os.ErrNotExist)
	})
}

// Nothing is started on a machine without a SAN; what is missing for one is told.
func TestInitiatorIdle(t *testing.T) {
	i := startFake(t, &fakeSAN{})
	loads := make(chan int, 100)
	i.load = func() error { loads <- 1; return errors.New("the image has no kernel module iscsi_tcp") }
	i.Want(nil, true)
	stop := run(t, i)
	i.Want(nil, true)
	stop()
	if len(loads) != 0 {
		t.Error("modules were loaded for nothing")
	}
	i.Want([]Want{{portal("10.0.1.9:3260"), nil}}, true)
	run(t, i)
	await(t, i, "told", func(s []Status) bool { return len(s) == 1 && strings.Contains(s[0].Err, "iscsi_tcp") })
}
