package pid1

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/pid1/control"
)

func TestSendWillThroughALink(t *testing.T) {
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	to := netip.MustParseAddrPort(peer.LocalAddr().String())
	var m Machine
	// One link that is not there must not keep it from the others.
	err = m.SendWill(control.Will{Links: []control.WillLink{
		{Link: "nolink0", Payload: []byte("lost"), To: []netip.AddrPort{to}},
		{Link: "lo", Payload: []byte("will"), To: []netip.AddrPort{to}},
	}})
	if errors.Is(err, unix.EPERM) {
		t.Skipf("binding to a link is not allowed here: %v", err)
	}
	if !errors.Is(err, unix.ENODEV) {
		t.Errorf("got error %v, want one for the link that is not there", err)
	}
	if err := peer.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, _, err := peer.ReadFromUDP(buf)
	if err != nil || string(buf[:n]) != "will" {
		t.Errorf("got %q, %v, want the will", buf[:n], err)
	}
}
