package qemu

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/skein-os/skein/qemu/ethernet"
)

func TestImpair(t *testing.T) {
	bad := ethernet.Fault{Loss: 0.3, Delay: 50 * time.Millisecond, Jitter: 50 * time.Millisecond, Duplicate: 0.1, Corrupt: 0.01}
	type where struct {
		node string
		lan  int
		dir  ethernet.Direction
	}
	all := func(pick func(where) bool) map[where]bool {
		set := map[where]bool{}
		for _, n := range []string{"n1", "n2"} {
			for lan := range LANs {
				for _, d := range []ethernet.Direction{ethernet.Out, ethernet.In} {
					if w := (where{n, lan, d}); pick(w) {
						set[w] = true
					}
				}
			}
		}
		return set
	}
	tests := []struct {
		name, node, iface string
		dirs              []ethernet.Direction
		want              func(where) bool
	}{
		{"the lab: what machines send", "", "", nil, func(w where) bool { return w.dir == ethernet.Out }},
		{"the lab, what is sent to them", "", "", []ethernet.Direction{ethernet.In}, func(w where) bool { return w.dir == ethernet.In }},
		{"one LAN", "", "eth1", nil, func(w where) bool { return w.dir == ethernet.Out && w.lan == 1 }},
		{"a machine: both ways", "n2", "", nil, func(w where) bool { return w.node == "n2" }},
		{"a link, one way", "n1", "eth0", []ethernet.Direction{ethernet.In}, func(w where) bool { return w == where{"n1", 0, ethernet.In} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			events, err := newTimeline(filepath.Join(t.TempDir(), "events.jsonl"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer events.close()
			l := &Lab{machines: map[string]*Machine{}, events: events}
			for i, n := range []string{"n1", "n2"} {
				l.machines[n] = &Machine{lab: l, node: Node{Name: n, Number: i + 1}}
			}
			l.machines["n1"].fault[0][ethernet.Out].Drop = true // a silent cable stays one
			for _, to := range []ethernet.Fault{bad, {}} {
				if err := l.Impair(tt.node, tt.iface, tt.dirs, to); err != nil {
					t.Fatal(err)
				}
				meant := all(tt.want)
				for w := range all(func(where) bool { return true }) {
					want := ethernet.Fault{}
					if meant[w] {
						want = to
					}
					want.Drop = w == where{"n1", 0, ethernet.Out}
					if got := l.machines[w.node].fault[w.lan][w.dir]; got != want {
						t.Errorf("%+v: got %+v, want %+v", w, got, want)
					}
				}
			}
		})
	}
}
