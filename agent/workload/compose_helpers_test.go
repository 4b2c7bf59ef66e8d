package workload

import "net/netip"

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func sameAddr(a, b netip.Addr) bool { return a == b }
