package demo

import (
	"net/netip"
	"testing"

	"github.com/skein-os/skein/agent/workload"
)

// The Compose file must deploy as it is, and name the images that are built here.
func TestComposeDeploys(t *testing.T) {
	services, warnings, err := workload.Parse(t.Context(), ComposeName, Compose, "demo", nil)
	if err != nil || len(warnings) != 0 {
		t.Fatalf("got warnings %v, error %v", warnings, err)
	}
	want := map[string]string{"web": "10.77.9.10", "media": "10.77.9.12", "reports": ""}
	if len(services) != len(want) {
		t.Fatalf("got %d services, want %d", len(services), len(want))
	}
	for _, s := range services {
		address, known := want[s.Name]
		if !known || s.Image != (recipe{name: s.Name}).ref() {
			t.Errorf("%s: got image %s, want the one built here", s.Name, s.Image)
		}
		if address != "" && (len(s.Floating) != 1 || s.Floating[0] != netip.MustParseAddr(address) || len(s.Ports) != 1 || s.Ports[0].Published != 80) {
			t.Errorf("%s: got addresses %v and ports %v, want %s and port 80", s.Name, s.Floating, s.Ports, address)
		}
		if s.Writable || len(s.Tmpfs) != 1 || s.Health == nil || s.Limits.Memory == 0 || s.Limits.Pids == 0 {
			t.Errorf("%s: want a read-only root, one tmpfs, a health check and limits, got %+v", s.Name, s)
		}
	}
}
