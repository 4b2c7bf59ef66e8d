package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/network"
)

// flooded is an agent that receives on the loopback, whose loop only collects its inputs, and
// a peer that sends to it.
type flooded struct {
	a    *Agent
	port uint16
	peer *member.Core
}

const floodKey = "0123456789abcdef0123456789abcdef"

func newFlooded(t testing.TB) *flooded {
	t.Helper()
	free, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &flooded{port: uint16(free.LocalAddr().(*net.UDPAddr).Port)}
	_ = free.Close()
	cfg := member.DefaultConfig()
	cfg.ClusterID, cfg.Key, cfg.Self, cfg.BootID = "lab", []byte(floodKey), "n2", "boot-2"
	f.peer = member.New(cfg)
	f.peer.SetPeers(0, true, []member.Peer{{Name: "n1", BootID: "boot-1", Voter: true,
		Links: []member.PeerLink{{Link: "lo", Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), f.port)}}}})

	f.a = &Agent{log: slog.New(slog.DiscardHandler), beacons: make(chan []byte, 1), loop: newLoop()}
	cfg.Self, cfg.BootID = "n1", "boot-1"
	screen := member.NewScreen(cfg)
	screen.SetPeers([]netip.Addr{netip.MustParseAddr("127.0.0.1")}) // the forger has the peer's address
	f.a.screen.Store(screen)
	hb, err := network.OpenHeartbeats(f.a.log, []string{"lo"}, f.port, f.a.received)
	if err != nil {
		t.Skipf("sockets bound to a link: %v", err)
	}
	t.Cleanup(hb.Close)
	f.a.hb = hb
	return f
}

// flood sends forged datagrams as fast as it can until ctx ends, and returns how many.
func (f *flooded) flood(ctx context.Context, t testing.TB) int {
	c, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", f.port))
	if err != nil {
		t.Error(err)
		return 0
	}
	defer c.Close()
	forged := f.peer.Tick(time.Hour)[0].Payload
	forged[len(forged)-1] ^= 1
	n := 0
	for ; ctx.Err() == nil; n++ {
		_, _ = c.Write(forged)
	}
	return n
}

// Forged datagrams in the name and from the address of a peer cost the loop nothing, and the peer is heard.
func TestFloodDoesNotReachTheLoop(t *testing.T) {
	f := newFlooded(t)
	payloads := make([][]byte, 40)
	for i := range payloads {
		payloads[i] = f.peer.Tick(time.Duration(i+1) * time.Second)[0].Payload
	}
	ctx, stop := context.WithCancel(t.Context())
	forged := make(chan int)
	go func() { forged <- f.flood(ctx, t) }()
	for f.a.screen.Load().Refused() < 1000 {
		time.Sleep(time.Millisecond)
	}
	began := balance.Now()
	for _, p := range payloads {
		if err := f.a.hb.Send("lo", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), f.port), p); err != nil {
			t.Logf("a heartbeat was not sent: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	n, took := <-forged, balance.Now()-began
	inputs := len(f.a.loop.inputs)
	t.Logf("%d forged datagrams in some %v, %d refused; %d of %d heartbeats reached the loop", n, took.Round(time.Millisecond), f.a.screen.Load().Refused(), inputs, len(payloads))
	if inputs > len(payloads) {
		t.Errorf("%d inputs reached the loop, want at most the %d of the peer", inputs, len(payloads))
	}
	// A node is silent after five that are missing: half of them are plenty.
	if inputs < len(payloads)/2 {
		t.Errorf("%d of %d heartbeats got through, want most", inputs, len(payloads))
	}
}
