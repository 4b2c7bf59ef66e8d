package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// States of a connection (include/net/tcp_states.h).
const tcpEstablished, tcpSynSent = 1, 2

// Unstick ends the TCP connections of this node to the given networks of peers that wait for an acknowledgement and
// have sent again already, and those that are still being made. It returns how many. Their programs make them anew,
// by the present routes; left alone, TCP would wait up to seconds more, since it doubles its patience with each loss.
// Connections of containers are none of this node.
func (n *Node) Unstick(peers []netip.Prefix) (int, error) {
	list, err := netlink.SocketDiagTCPInfo(unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("list connections: %w", err)
	}
	var errs []error
	ended := 0
	for _, s := range list {
		if s.InetDiagMsg == nil || !stuck(s) {
			continue
		}
		id := s.InetDiagMsg.ID
		remote, ok := netip.AddrFromSlice(id.Destination.To4())
		if !ok || !slices.ContainsFunc(peers, func(p netip.Prefix) bool { return p.Contains(remote) }) {
			continue
		}
		local := &net.TCPAddr{IP: id.Source, Port: int(id.SourcePort)}
		err := netlink.SocketDestroy(local, &net.TCPAddr{IP: id.Destination, Port: int(id.DestinationPort)})
		switch {
		case err == nil:
			ended++
		case !errors.Is(err, unix.ENOENT): // it has ended by itself
			errs = append(errs, fmt.Errorf("end the connection from %s to %s: %w", local, remote, err))
		}
	}
	return ended, errors.Join(errs...)
}

func stuck(s *netlink.InetDiagTCPInfoResp) bool {
	switch s.InetDiagMsg.State {
	case tcpSynSent:
		return true
	case tcpEstablished:
		return s.TCPInfo != nil && s.TCPInfo.Unacked > 0 && (s.TCPInfo.Retransmits > 0 || s.TCPInfo.Backoff > 0)
	}
	return false
}
