package agent

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/member"
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
	w := pid1Will(all[:4], 8*time.Second)
	if len(w.Links) != 4 || w.Patience() != 8*time.Second || w.Links[2].Link != "eth2" || w.Links[2].Payload[0] != 2 || w.Links[2].To[0] != all[2].To {
		t.Errorf("got %+v, want one datagram for each of four links", w)
	}
	// However large the cluster, PID 1 takes it.
	w = pid1Will(all, time.Hour)
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
