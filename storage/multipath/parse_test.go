package multipath

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

func TestTableString(t *testing.T) {
	for _, c := range []struct {
		table Table
		want  string
	}{
		{Table{Queue: true, Groups: []Group{{[]string{"8:16"}}, {[]string{"8:0"}}}},
			"1 queue_if_no_path 0 2 1 service-time 0 1 1 8:16 1 service-time 0 1 1 8:0 1"},
		{Table{Groups: []Group{{[]string{"8:16", "65:32"}}}}, "0 0 1 1 service-time 0 2 1 8:16 1 65:32 1"},
		{Table{}, "0 0 0 0"},
	} {
		if got := c.table.String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestGroups(t *testing.T) {
	got := groups(map[string]int{"8:16": 10, "8:0": 50, "65:0": 50, "8:160": 10})
	want := []Group{{[]string{"8:0", "65:0"}}, {[]string{"8:16", "8:160"}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestName(t *testing.T) {
	long := "t10." + strings.Repeat("x", 200)
	seen := map[string]string{}
	for _, wwn := range []string{"naa.6001405", "t10.A B", "t10.A_B", "t10.A/B", long, long + "y"} {
		n := Name(wwn)
		if len(n) > 127 || len(uuid(wwn)) > 128 || strings.ContainsAny(n, "/ ") || !strings.HasPrefix(n, "skein-") || !strings.HasPrefix(uuid(wwn), "mpath-") {
			t.Errorf("%q: got name %q, uuid %q", wwn, n, uuid(wwn))
		}
		if o, ok := seen[n]; ok {
			t.Errorf("%q and %q are both %s", wwn, o, n)
		}
		seen[n] = wwn
	}
	if got, want := Name("naa.6001405"), "skein-naa.6001405"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// In the form that kernel 6.1 uses, as multipath tools show it.
const (
	statusLine = "2 0 0 0 2 1 A 0 1 2 8:16 A 0 0 1 E 0 1 2 8:0 F 3 0 1 "
	tableLine  = "1 queue_if_no_path 0 2 1 service-time 0 1 2 8:16 1 1 service-time 0 1 2 8:0 1 1 "
)

func TestParseStatus(t *testing.T) {
	got, err := ParseStatus(statusLine)
	want := Status{Next: 1, Groups: []GroupStatus{
		{Active: true, Paths: []PathStatus{{"8:16", true, 0}}}, {Paths: []PathStatus{{"8:0", false, 3}}}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if got, err := ParseStatus("2 0 0 0 0 0 "); err != nil || len(got.Groups) != 0 {
		t.Errorf("without paths: got %+v, %v", got, err)
	}
	// Each way to be cut short or to have something wrong is an error.
	f := strings.Fields(statusLine)
	for i := range f {
		if got, err := ParseStatus(strings.Join(f[:i], " ")); err == nil {
			t.Errorf("cut after %d words: got %+v", i, got)
		}
	}
	for _, bad := range []string{statusLine + "x", strings.Replace(statusLine, "A 0 1", "Z 0 1", 1), strings.Replace(statusLine, "8:16 A", "8:16 Q", 1),
		strings.Replace(statusLine, "8:16", "sdb", 1), "2 0 0 0 99999999999999999999 0", "4294967295 0"} {
		if got, err := ParseStatus(bad); err == nil {
			t.Errorf("%q: got %+v", bad, got)
		}
	}
}

func TestParseTable(t *testing.T) {
	got, err := ParseTable(tableLine)
	want := Table{Queue: true, Groups: []Group{{[]string{"8:16"}}, {[]string{"8:0"}}}}
	if err != nil || !got.equal(want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, table := range []Table{want, {}, {Queue: true}} {
		if got, err := ParseTable(table.String()); err != nil || !got.equal(table) {
			t.Errorf("%s: got %+v, %v", table, got, err)
		}
	}
	f := strings.Fields(tableLine)
	for i := range f {
		if got, err := ParseTable(strings.Join(f[:i], " ")); err == nil {
			t.Errorf("cut after %d words: got %+v", i, got)
		}
	}
}

func FuzzStatus(f *testing.F) {
	f.Add(statusLine)
	f.Add(tableLine)
	f.Add("0 0 0 0")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := ParseStatus(line)
		if err == nil {
			if s.Next > len(s.Groups) || s.active() > len(s.Groups) {
				t.Errorf("%q: got %+v", line, s)
			}
			for _, g := range s.Groups {
				for _, p := range g.Paths {
					if _, _, err := splitDev(p.Dev); err != nil {
						t.Errorf("%q: %v", line, err)
					}
				}
			}
		}
		if table, err := ParseTable(line); err == nil {
			if again, err := ParseTable(table.String()); err != nil || !again.equal(table) {
				t.Errorf("%q: got %+v, written and read again %+v, %v", line, table, again, err)
			}
		}
	})
}

func bytesOf(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	portGroups = "00000014 00 8f 0000 00 00 00 01 00000001 01 8f 0007 00 00 00 00"
	extended   = "00000010 10 3c 0000 0e 8f 0003 00 00 00 01 00000002"
	identity   = "00 83 0034 01 03 0010 6001405bf9b2ad8c000000000000000a 01 14 0004 00000002 01 15 0004 00000007 02 01 0008 4c494f2d4f524700"
)

func TestParsePortGroups(t *testing.T) {
	for text, want := range map[string][]PortGroup{
		portGroups: {{ID: 0, Access: Optimized, Ports: []uint16{1}}, {ID: 7, Access: NonOptimized}},
		extended:   {{ID: 3, Access: Offline, Ports: []uint16{2}}},
		"00000000": nil,
	} {
		b := bytesOf(t, text)
		if got, err := ParsePortGroups(b); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
		for i := range b {
			if got, err := ParsePortGroups(b[:i]); err == nil {
				t.Errorf("cut after %d bytes: got %+v", i, got)
			}
		}
	}
	twice := "00000010 00 8f 0001 00 00 00 00 01 8f 0001 00 00 00 00"
	if got, err := ParsePortGroups(bytesOf(t, twice)); err == nil {
		t.Errorf("a group twice: got %+v", got)
	}
}

func TestParseIdentity(t *testing.T) {
	b := fix(bytesOf(t, identity))
	got, err := ParseIdentity(b)
	want := Identity{Names: []string{"naa.6001405bf9b2ad8c000000000000000a", "t10.LIO-ORG"}, Port: 2, Group: 7, ALUA: true}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	if !got.Has("NAA.6001405bf9b2ad8c000000000000000a ") || got.Has("") || got.Has("naa.6001405bf9b2ad8c000000000000000b") {
		t.Errorf("%v: Has", got.Names)
	}
	groups := []PortGroup{{ID: 7, Access: Standby}}
	if a, err := got.access(groups); a != Standby || err != nil {
		t.Errorf("access: got %v, %v, want %v", a, err, Standby)
	}
	if _, err := (Identity{Group: 8}).access(groups); err == nil {
		t.Error("a port of no group: got no error")
	}
	for i := range b {
		if got, err := ParseIdentity(b[:i]); err == nil {
			t.Errorf("cut after %d bytes: got %+v", i, got)
		}
	}
	b[1] = 0x80
	if got, err := ParseIdentity(b); err == nil {
		t.Errorf("another page: got %+v", got)
	}
}

// fix sets the page's length.
func fix(b []byte) []byte {
	b[2], b[3] = byte((len(b)-4)>>8), byte(len(b)-4)
	return b
}

func FuzzALUA(f *testing.F) {
	f.Add(bytesOf(f, portGroups))
	f.Add(bytesOf(f, extended))
	f.Add(fix(bytesOf(f, identity)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := ParsePortGroups(b); err == nil && 8*len(g) > len(b) {
			t.Errorf("%x: got %d groups", b, len(g))
		}
		if id, err := ParseIdentity(b); err == nil {
			for _, n := range id.Names {
				if len(n) > 2*len(b)+4 {
					t.Errorf("%x: got %q", b, n)
				}
			}
		}
	})
}
