package network

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestUnstick: of two connections to a peer that is not reached any more, the one that waits for an answer ends, and the
// one that is idle stays.
func TestUnstick(t *testing.T) {
	needNamespace(t)
	n := setup(t)
	peer := netip.MustParsePrefix("192.0.2.9/24")
	h := newHost(t, "stick0", "stick1", peer)
	must(t, addAddr("stick0", netip.MustParsePrefix("192.0.2.1/24")))
	var l net.Listener
	h.do(t, func() (err error) {
		l, err = net.Listen("tcp4", "192.0.2.9:0")
		return err
	})
	defer l.Close()
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.DialTimeout("tcp4", l.Addr().String(), 10*time.Second)
		must(t, err)
		t.Cleanup(func() { c.Close() })
		there := <-accepted
		t.Cleanup(func() { there.Close() })
		return c
	}
	waits, idle := dial(), dial()
	h.do(t, func() error { return setLink("stick1", false) })
	_, err := waits.Write([]byte("x"))
	must(t, err)
	others := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	if ended, err := n.Unstick(others); err != nil || ended != 0 {
		t.Fatalf("of another peer: ended %d, %v", ended, err)
	}
	await(t, "the waiting connection to be ended", func() bool {
		ended, err := n.Unstick([]netip.Prefix{peer.Masked()})
		must(t, err)
		return ended == 1
	})
	must(t, waits.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := waits.Read(make([]byte, 1)); err == nil || err.(net.Error).Timeout() {
		t.Errorf("the waiting connection: got %v, want that it was ended", err)
	}
	must(t, idle.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	if _, err := idle.Read(make([]byte, 1)); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("the idle connection: got %v, want that it goes on", err)
	}
}
