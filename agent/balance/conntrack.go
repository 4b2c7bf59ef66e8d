package balance

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flowFilter names connections to forget: those to dst as the client sees it (and port, if it is not 0),
// or those that were sent to an instance.
type flowFilter struct {
	dst      netip.Addr
	port     uint16
	proto    uint8
	instance netip.AddrPort
}

// forget connections soon. Never blocks: reading the kernel's table takes a while on a busy machine, and
// renewals of the lease must not wait for it.
func (b *Balancer) forget(f flowFilter) {
	select {
	case b.flows <- f:
	default:
		b.cfg.Log.Warn("too many changes at once: some connections to ended instances end by their own timeouts")
	}
}

// forgetChanges: connections to instances that are gone would go on to nowhere; and UDP flows that came
// before their port was published would stay unpublished for as long as they last.
func (b *Balancer) forgetChanges(before, now *model) {
	type instance struct {
		netip.AddrPort
		proto uint8
	}
	still := map[instance]bool{}
	for _, chains := range []map[string][]netip.AddrPort{now.chains, now.draining} {
		for name, to := range chains {
			for _, t := range to {
				still[instance{t, now.protocols[name]}] = true
			}
		}
	}
	for _, chains := range []map[string][]netip.AddrPort{before.chains, before.draining} {
		for name, to := range chains {
			for _, t := range to {
				if i := (instance{t, before.protocols[name]}); !still[i] {
					still[i] = true
					b.forget(flowFilter{instance: t, proto: i.proto})
				}
			}
		}
	}
	for e := range now.endpoints {
		if _, old := before.endpoints[e]; !old && e.proto == unix.IPPROTO_UDP && e.addr.IsValid() {
			b.forget(flowFilter{dst: e.addr, port: e.port, proto: e.proto})
		}
	}
}

func (b *Balancer) forgetFlows(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-b.flows:
			if n, err := f.delete(); err != nil {
				b.cfg.Log.Warn("cannot forget old connections (is nf_conntrack_netlink loaded?)", "err", err)
			} else if n > 0 {
				b.cfg.Log.Info("forgot connections", "count", n, "to", f.String())
			}
		}
	}
}

func (f flowFilter) String() string {
	if f.instance.IsValid() {
		return f.instance.String()
	}
	return f.dst.String()
}

func (f flowFilter) delete() (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f)
	if err != nil {
		return n, fmt.Errorf("delete connections to %s: %w", f, err)
	}
	return n, nil
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if f.proto != 0 && flow.Forward.Protocol != f.proto {
		return false
	}
	if f.instance.IsValid() {
		// The instance answers, and not from where the client asked: it was sent there by us.
		src, ok := netip.AddrFromSlice(flow.Reverse.SrcIP.To4())
		return ok && netip.AddrPortFrom(src, flow.Reverse.SrcPort) == f.instance &&
			!(flow.Forward.DstIP.Equal(flow.Reverse.SrcIP) && flow.Forward.DstPort == flow.Reverse.SrcPort)
	}
	dst, ok := netip.AddrFromSlice(flow.Forward.DstIP.To4())
	return ok && dst == f.dst && (f.port == 0 || flow.Forward.DstPort == f.port)
}
