package hostnet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/skein-os/skein/qemu/ethernet"
)

// leaseTime is what machines are told. They get the same address again for ever, so it is long enough
// to stay out of the way of the faults of a test.
const leaseTime = time.Hour

const dhcpServerPort, dhcpClientPort = 67, 68

// startDHCP serves DHCP on one LAN until the host closes.
func (h *Host) startDHCP(lan int) error {
	c := h.cards[lan]
	var wq waiter.Queue
	ep, terr := h.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return fmt.Errorf("open the DHCP port on LAN %d: %s", lan, terr)
	}
	ep.SocketOptions().SetBroadcast(true)
	// Without this the second LAN's server would find the port in use.
	if terr := ep.SocketOptions().SetBindToDevice(int32(c.id)); terr != nil {
		ep.Close()
		return fmt.Errorf("bind the DHCP server to LAN %d: %s", lan, terr)
	}
	if terr := ep.Bind(tcpip.FullAddress{NIC: c.id, Port: dhcpServerPort}); terr != nil {
		ep.Close()
		return fmt.Errorf("bind the DHCP port on LAN %d: %s", lan, terr)
	}
	c.dhcp = gonet.NewUDPConn(&wq, ep)
	h.wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, _, err := c.dhcp.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			req, err := dhcpv4.FromBytes(buf[:n])
			if err != nil {
				h.cfg.Log.Debug("not a DHCP message", "lan", lan, "err", err)
				continue
			}
			reply := h.answer(lan, req)
			if reply == nil {
				continue
			}
			// A machine without an address hears only broadcasts; one that renews is spoken to directly.
			to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpClientPort}
			if !req.ClientIPAddr.IsUnspecified() && reply.MessageType() != dhcpv4.MessageTypeNak {
				to.IP = req.ClientIPAddr
			}
			if _, err := c.dhcp.WriteTo(reply.ToBytes(), to); err != nil {
				h.cfg.Log.Warn("send a DHCP reply", "lan", lan, "to", to, "err", err)
			}
		}
	})
	return nil
}

// answer makes the reply to a DHCP message, nil for none.
func (h *Host) answer(lan int, req *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	if req.OpCode != dhcpv4.OpcodeBootRequest || len(req.ClientHWAddr) != 6 {
		return nil
	}
	mac := ethernet.MAC(req.ClientHWAddr)
	addr, ok := h.cfg.Lease(lan, mac)
	if !ok {
		return nil
	}
	self := h.cards[lan].lan.Addr
	var kind dhcpv4.MessageType
	switch req.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		kind = dhcpv4.MessageTypeOffer
	case dhcpv4.MessageTypeRequest:
		if id := req.ServerIdentifier(); id != nil && !id.Equal(self.Addr().AsSlice()) {
			return nil // it chose another server
		}
		kind = dhcpv4.MessageTypeAck
		asked := req.RequestedIPAddress()
		if asked == nil || asked.IsUnspecified() {
			asked = req.ClientIPAddr
		}
		if got, ok := netip.AddrFromSlice(asked); !ok || got.Unmap() != addr {
			kind = dhcpv4.MessageTypeNak
		}
	default:
		return nil
	}
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithServerIP(self.Addr().AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.Addr().AsSlice())),
	}
	if kind != dhcpv4.MessageTypeNak {
		mask := make(net.IPMask, 4)
		binary.BigEndian.PutUint32(mask, ^uint32(0)<<(32-self.Bits()))
		mods = append(mods, dhcpv4.WithYourIP(addr.AsSlice()), dhcpv4.WithNetmask(mask), dhcpv4.WithLeaseTime(uint32(leaseTime.Seconds())))
	}
	reply, err := dhcpv4.NewReplyFromRequest(req, mods...)
	if err != nil {
		h.cfg.Log.Warn("make a DHCP reply", "lan", lan, "err", err)
		return nil
	}
	if h.cfg.Boot != nil && kind != dhcpv4.MessageTypeNak {
		h.cfg.Boot(lan, req, reply)
	}
	if kind == dhcpv4.MessageTypeAck && h.cfg.OnLease != nil {
		h.cfg.OnLease(lan, mac, addr)
	}
	return reply
}
