package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/pid1/control"
)

func TestPID1Will(t *testing.T) {
	var all []member.Datagram
	for peer := range 100 {
		for link := range 10 {
			all = append(all, member.Datagram{
				Link:    fmt.Sprintf("eth%d", link),
				To:      netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(link), byte(peer + 1)}), 7700),
				Payload: []byte{byte(link)},
			})
		}
	}
	words := func(list []member.Datagram, text string) (out []member.Datagram) {
		for _, d := range list {
			d.Payload = []byte(text + d.Link)
			out = append(out, d)
		}
		return out
	}
	bequest := func(list []member.Datagram, patience time.Duration) node.Bequest {
		return node.Bequest{Restarts: list, Patience: patience, Stopped: words(list, "stopped "), Failed: words(list, "failed ")}
	}
	w := pid1Will(bequest(all[:4], 8*time.Second))
	if l := w.Links[2]; string(l.Stopped) != "stopped eth2" || string(l.Failed) != "failed eth2" {
		t.Errorf("got last words %q and %q, want those for eth2", l.Stopped, l.Failed)
	}
	if len(w.Links) != 4 || w.Patience() != 8*time.Second || w.Links[2].Link != "eth2" || w.Links[2].Payload[0] != 2 || w.Links[2].To[0] != all[2].To {
		t.Errorf("got %+v, want one datagram for each of four links", w)
	}
	// However large the cluster, PID 1 takes it.
	w = pid1Will(bequest(all, time.Hour))
	targets := 0
	for _, l := range w.Links {
		targets += len(l.To)
	}
	line := control.AppendLine(nil, control.Request{Op: control.SetWill, Will: &w})
	if _, err := control.ParseRequest(line); err != nil {
		t.Errorf("a will with %d of %d targets: %v", targets, len(all), err)
	}
	if targets < control.MaxWillTargets/2 {
		t.Errorf("got %d targets, want about %d", targets, control.MaxWillTargets)
	}
}

// TestFarewellIsForTheWholeBoot: after it no agent of this boot is a member, and one of the next boot may be.
func TestFarewellIsForTheWholeBoot(t *testing.T) {
	a := &Agent{opts: Options{RunDir: t.TempDir()}, id: identity{BootID: "one"}}
	if err := a.mayJoin(); err != nil {
		t.Fatalf("before a farewell: %v", err)
	}
	if err := a.store(renouncedFile, renounced{BootID: a.id.BootID}); err != nil {
		t.Fatal(err)
	}
	if err := a.mayJoin(); !errors.Is(err, errRenounced) {
		t.Errorf("after a farewell: got %v, want %v", err, errRenounced)
	}
	a.id.BootID = "two"
	if err := a.mayJoin(); err != nil {
		t.Errorf("in the next boot: got %v", err)
	}
	if err := os.WriteFile(a.path(renouncedFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.mayJoin(); err == nil {
		t.Error("a mark that cannot be read does not count")
	}
}
