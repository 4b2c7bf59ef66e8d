package gfs2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/disk"
	"github.com/skein-os/skein/storage/shared"
)

func member(id uint32, incarnation uint64) shared.Member {
	return shared.Member{Node: fmt.Sprintf("n%d", id), ID: id, Incarnation: incarnation, Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(id)})}
}

func listing(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

// TestSteps: what is done to the kernel, word for word.
func TestSteps(t *testing.T) {
	n1, n2, n3, n3again := member(1, 1), member(2, 1), member(3, 1), member(3, 2)
	three := map[uint32]shared.Member{2: n2, 3: n3}
	ms := func(g uint64, m ...shared.Member) shared.Membership {
		return shared.Membership{Generation: g, Members: m}
	}
	stop := func(a shared.Action, s seen) []step { steps, _ := stopSteps("data", n1, a, s); return steps }
	cases := []struct {
		name  string
		steps []step
		want  string
	}{
		{"a node joins: it knows nobody yet", stop(shared.Action{Membership: ms(3, n1, n2), Admit: true}, seen{lock: true, comms: []uint32{1}}), `
write 0 to dlm/data/control
mkdir config/dlm/cluster/comms/2
write 2 to config/dlm/cluster/comms/2/nodeid
write config/dlm/cluster/comms/2/addr
`},
		{"and is let in", startSteps("data", shared.Action{Membership: ms(3, n1, n2), Admit: true}, seen{lock: true}), `
write 4080995343 to dlm/data/id
write 0 to dlm/data/nodir
mkdir config/dlm/cluster/spaces/data
mkdir config/dlm/cluster/spaces/data/nodes/1
write 1 to config/dlm/cluster/spaces/data/nodes/1/nodeid
write 1 to config/dlm/cluster/spaces/data/nodes/1/weight
mkdir config/dlm/cluster/spaces/data/nodes/2
write 2 to config/dlm/cluster/spaces/data/nodes/2/nodeid
write 1 to config/dlm/cluster/spaces/data/nodes/2/weight
write 1 to dlm/data/control
write 0 to dlm/data/event_done
`},
		{"another fails: its address goes before anything starts", stop(shared.Action{Membership: ms(4, n1, n2), Failed: []shared.Member{n3}}, seen{lock: true, comms: []uint32{1, 2, 3}, known: three}), `
write 0 to dlm/data/control
rmdir config/dlm/cluster/comms/3
`},
		{"and is taken out", startSteps("data", shared.Action{Membership: ms(4, n1, n2), Failed: []shared.Member{n3}}, seen{lock: true, space: true, nodes: []uint32{1, 2, 3}}), `
rmdir config/dlm/cluster/spaces/data/nodes/3
write 1 to dlm/data/control
`},
		{"another leaves: its address stays, or it would count as failed", stop(shared.Action{Membership: ms(4, n1, n2), Gone: []shared.Member{n3}}, seen{lock: true, comms: []uint32{1, 2, 3}, known: three}), `
write 0 to dlm/data/control
`},
		{"failed and back in one change", stop(shared.Action{Membership: ms(4, n1, n2, n3again), Failed: []shared.Member{n3}}, seen{lock: true, comms: []uint32{1, 2, 3}, known: three}), `
write 0 to dlm/data/control
rmdir config/dlm/cluster/comms/3
mkdir config/dlm/cluster/comms/3
write 3 to config/dlm/cluster/comms/3/nodeid
write config/dlm/cluster/comms/3/addr
`},
		{"the same stop once more: the new entry is not touched", stop(shared.Action{Membership: ms(5, n1, n2, n3again), Failed: []shared.Member{n3}}, seen{lock: true, comms: []uint32{1, 2, 3}, known: map[uint32]shared.Member{2: n2, 3: n3again}}), `
write 0 to dlm/data/control
`},
		{"the start of that: taken out and put in", startSteps("data", shared.Action{Membership: ms(5, n1, n2, n3again), Failed: []shared.Member{n3}}, seen{lock: true, space: true, nodes: []uint32{1, 2, 3}}), `
rmdir config/dlm/cluster/spaces/data/nodes/3
mkdir config/dlm/cluster/spaces/data/nodes/3
write 3 to config/dlm/cluster/spaces/data/nodes/3/nodeid
write 1 to config/dlm/cluster/spaces/data/nodes/3/weight
write 1 to dlm/data/control
`},
		{"this node leaves", releaseSteps("data", seen{lock: true, space: true, nodes: []uint32{1, 2}}), `
write 0 to dlm/data/event_done
rmdir config/dlm/cluster/spaces/data/nodes/1
rmdir config/dlm/cluster/spaces/data/nodes/2
rmdir config/dlm/cluster/spaces/data
`},
		{"an agent takes over what runs", prepareSteps("c", n1, seen{lock: true, comms: []uint32{1, 2}}), `
mkdir config/dlm/cluster
write c to config/dlm/cluster/cluster_name
write 1 to config/dlm/cluster/recover_callbacks
`},
	}
	for _, c := range cases {
		if got, want := listing(c.steps), strings.TrimPrefix(c.want, "\n"); got != want {
			t.Errorf("%s: got\n%swant\n%s", c.name, got, want)
		}
	}
}

func TestSockaddr(t *testing.T) {
	four, six := sockaddr(netip.MustParseAddr("::ffff:10.1.2.3")), sockaddr(netip.MustParseAddr("fd00::7"))
	if len(four) != 128 || four[:8] != "\x02\x00\x00\x00\x0a\x01\x02\x03" {
		t.Errorf("IPv4: got %d bytes, %q", len(four), four[:8])
	}
	if len(six) != 128 || six[0] != 10 || six[8:24] != "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" {
		t.Errorf("IPv6: got %d bytes, %q", len(six), six[:24])
	}
}

func TestValidName(t *testing.T) {
	for _, c := range []struct {
		cluster, name string
		ok            bool
	}{
		{"skein", "data", true}, {"a-b_C9", strings.Repeat("x", 30), true},
		{"", "data", false}, {"skein", "", false}, {"skein", "a:b", false}, {"skein", "a/b", false}, {"skein", "..", false},
		{strings.Repeat("x", 33), "a", false}, {"skein", strings.Repeat("x", 31), false},
	} {
		if err := ValidName(c.cluster, c.name); (err == nil) != c.ok {
			t.Errorf("%q, %q: got %v, want ok %t", c.cluster, c.name, err, c.ok)
		}
	}
}

func TestTranslate(t *testing.T) {
	d := New(Config{Cluster: "skein"})
	for _, c := range []struct {
		in   disk.Event
		want shared.Event
		ok   bool
	}{
		{disk.Event{Action: "online", Path: "/kernel/dlm/data", Subsystem: "dlm"}, shared.Event{Name: "data", Kind: shared.EventJoining}, true},
		{disk.Event{Action: "offline", Path: "/kernel/dlm/data", Subsystem: "dlm"}, shared.Event{Name: "data", Kind: shared.EventLeaving}, true},
		{disk.Event{Action: "add", Path: "/kernel/dlm/data", Subsystem: "dlm"}, shared.Event{}, false},
		{disk.Event{Action: "change", Path: "/fs/gfs2/skein:data", Subsystem: "gfs2", Values: map[string]string{"RECOVERY": "Done", "JID": "2"}}, shared.Event{Name: "data", Kind: shared.EventReplayed, Journal: 2}, true},
		{disk.Event{Action: "change", Path: "/fs/gfs2/skein:data", Subsystem: "gfs2", Values: map[string]string{"RECOVERY": "Failed", "JID": "1"}}, shared.Event{Name: "data", Kind: shared.EventNotPlayed, Journal: 1}, true},
		{disk.Event{Action: "offline", Path: "/fs/gfs2/skein:data", Subsystem: "gfs2"}, shared.Event{Name: "data", Kind: shared.EventWithdrawn}, true},
		{disk.Event{Action: "offline", Path: "/fs/gfs2/other:data", Subsystem: "gfs2"}, shared.Event{}, false},
		{disk.Event{}, shared.Event{Kind: shared.EventLost}, true},
	} {
		got, ok := d.translate(c.in)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%+v: got %+v, %t, want %+v, %t", c.in, got, ok, c.want, c.ok)
		}
	}
}

func TestMountPoint(t *testing.T) {
	const info = `22 1 0:20 / /proc rw - proc proc rw
30 1 254:0 / /srv\040a/x rw,noatime - gfs2 /dev/vda rw
31 1 254:0 / /shared rw,noatime - gfs2 /dev/vda rw
32 1 254:1 / /data rw - ext4 /dev/vdb rw
broken line
`
	if got, ok := mountPoint(info, "254:0"); !ok || got != "/srv a/x" {
		t.Errorf("got %q, %t", got, ok)
	}
	if got, ok := mountPoint(info, "254:1"); ok {
		t.Errorf("got %q for an ext4", got)
	}
}

func image(protocol, table string) []byte {
	b := make([]byte, superblockLen)
	binary.BigEndian.PutUint32(b, magic)
	binary.BigEndian.PutUint32(b[4:], 1)
	copy(b[96:], protocol)
	copy(b[160:], table)
	return b
}

func TestSuperblock(t *testing.T) {
	got, err := parseSuperblock(image("lock_dlm", "skein:data"))
	if want := (superblock{"lock_dlm", "skein:data"}); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for name, b := range map[string][]byte{
		"empty": make([]byte, superblockLen), "short": image("lock_dlm", "a:b")[:200], "no table": image("lock_dlm", ""),
		"no end": image("lock_dlm", strings.Repeat("x", 64)), "bytes": image("lock_dlm", "a\x01b"),
	} {
		if got, err := parseSuperblock(b); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(image("lock_dlm", "skein:data"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSuperblock(b)
		if err == nil && (s.table == "" || s.protocol == "" || strings.ContainsAny(s.table+s.protocol, "\x00\n\x1b")) {
			t.Errorf("got %+q", s)
		}
	})
}

func FuzzRefusal(f *testing.F) {
	f.Add(request(1, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		answer, err := refusal(b)
		if err == nil && answer != nil && (len(answer) != plockLen || !bytes.Equal(answer[:plockRV], b[:plockRV]) || !bytes.Equal(answer[plockRV+4:], b[plockRV+4:])) {
			t.Errorf("%x: got %x", b, answer)
		}
	})
}

func request(op, flags byte) []byte {
	b := make([]byte, plockLen)
	binary.NativeEndian.PutUint32(b, plockMajor)
	b[plockOp], b[plockFlags] = op, flags
	b[60] = 9
	return b
}

func TestRefusal(t *testing.T) {
	for _, c := range []struct {
		name      string
		op, flags byte
		want      int32
		silent    bool
	}{
		{"lock", 1, 0, -int32(unix.ENOLCK), false}, {"get", 3, 0, -int32(unix.ENOLCK), false}, {"unlock", 2, 0, 0, false}, {"close", 2, plockClose, 0, true},
	} {
		got, err := refusal(request(c.op, c.flags))
		if err != nil || (got == nil) != c.silent {
			t.Fatalf("%s: got %x, %v", c.name, got, err)
		}
		if got != nil {
			if rv := int32(binary.NativeEndian.Uint32(got[plockRV:])); rv != c.want {
				t.Errorf("%s: got %d, want %d", c.name, rv, c.want)
			}
		}
	}
	if _, err := refusal(make([]byte, plockLen)); err == nil {
		t.Error("a request of another version: no error")
	}
}

// miscounted is what fsck.gfs2 said after ten losses of power.
const miscounted = `Initializing fsck
Validating resource group index.
Level 1 resource group check: Checking if all rgrp and rindex values are good.
(level 1 passed)
Starting pass1
Reconciling bitmaps.
reconcile_bitmaps completed in 0.007s
pass1 completed in 0.018s
Starting pass1b
pass1b completed in 0.000s
Starting pass2
pass2 completed in 0.007s
Starting pass3
pass3 completed in 0.000s
Starting pass4
pass4 completed in 0.001s
Starting check_statfs
The statfs file is wrong:

Current statfs values:
blocks:  262104 (0x3ffd8)
free:    255109 (0x3e485)
dinodes: 55 (0x37)

Calculated statfs values:
blocks:  262104 (0x3ffd8)
free:    255108 (0x3e484)
dinodes: 55 (0x37)
The statfs file was not fixed.
check_statfs completed in 0.001s
fsck.gfs2 complete
`

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		said string
		want shared.Finding
	}{
		{"clean", 0, "", shared.Clean},
		{"repaired", 1, "whatever", shared.Repaired},
		{"counters", 4, miscounted, shared.Miscounted},
		{"counters, slowly", 4, strings.Replace(miscounted, "pass2 completed", "\r0 percent complete.\rpass2 completed", 1), shared.Miscounted},
		{"something else too", 4, strings.Replace(miscounted, "Starting pass2\n", "Starting pass2\nEntry 'x' is bad.\n", 1), shared.Damaged},
		{"a pass that did not end in order", 4, strings.Replace(miscounted, "pass1 completed in", "pass1 is not so good:", 1), shared.Damaged},
		{"cut off", 4, miscounted[:strings.Index(miscounted, "Current statfs")], shared.Damaged},
		{"a journal", 4, "Journal #1 (\"journal0\") has 1651 sequencing errors; tolerance is 10.\n" + miscounted, shared.Damaged},
		{"silence", 4, "", shared.Damaged},
	} {
		if got, err := verdict(c.code, c.said); err != nil || got != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	if got, err := verdict(8, ""); err == nil {
		t.Errorf("code 8: got %q", got)
	}
}
