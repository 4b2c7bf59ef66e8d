package netboot

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// sent is a socket that notes when something was sent.
type sent struct {
	net.PacketConn
	at chan time.Time
}

func (s sent) WriteTo(p []byte, _ net.Addr) (int, error) {
	s.at <- time.Now()
	return len(p), nil
}

// A server of the second rank waits with its offer, and not with the answer to a request, which is for it alone; when too
// many answers wait it does not wait at all.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rank = 200 * time.Millisecond
		s, err := NewServer(Config{Interfaces: []Interface{{Name: "eth0", Addr: netip.MustParsePrefix("192.0.2.1/24")}}, HTTPPort: 80,
			Delay: func(net.HardwareAddr) time.Duration { return rank }})
		if err != nil {
			t.Fatal(err)
		}
		discover, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1})
		if err != nil {
			t.Fatal(err)
		}
		request, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.delay(request); got != 0 {
			t.Errorf("a request waits %v, want not at all", got)
		}
		conn := sent{at: make(chan time.Time, 2*maxDelayed)}
		begin := time.Now()
		s.send(conn, Interface{}, discover, nil, s.delay(discover))
		if got := (<-conn.at).Sub(begin); got != rank {
			t.Errorf("the offer came after %v, want %v", got, rank)
		}
		synctest.Wait()
		begin = time.Now()
		for range maxDelayed + 1 {
			s.send(conn, Interface{}, discover, nil, rank)
		}
		if got := (<-conn.at).Sub(begin); got != 0 {
			t.Errorf("one more than may wait came after %v, want at once", got)
		}
		for range maxDelayed {
			<-conn.at
		}
		synctest.Wait()
		if got := s.delayed.Load(); got != 0 {
			t.Errorf("%d answers are said to wait, and none does", got)
		}
	})
}
