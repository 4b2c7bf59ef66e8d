package kernel

import (
	"fmt"
	"slices"
	"strings"
)

// Profiles name the sets of modules for kinds of machines.
var profiles = map[string][]string{
	// virtual: QEMU machines with virtio devices.
	"virtual": slices.Concat(virtio, watchdogs, containers, filters),
}

var (
	virtio = []string{
		"virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "qemu_fw_cfg",
		"vsock", "vsock_loopback", "vmw_vsock_virtio_transport",
	}
	watchdogs  = []string{"i6300esb", "softdog"}
	containers = []string{"af_packet", "ipv6", "bridge", "veth", "dummy", "overlay", "inet_diag", "tcp_diag"}
	// filters: nftables has no way to load an expression's module on a node, so all that the balancer
	// and the lease guard use are here: sets with timeouts and verdict maps, the arp, inet and netdev
	// families are in nf_tables itself.
	filters = []string{
		"nf_tables", "nf_conntrack", "nf_nat", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_redir",
		"nft_reject_inet", "nft_reject_ipv4", "nft_limit", "nft_numgen", "nft_hash", "nft_fib_inet",
		"nft_fib_netdev", "nft_fwd_netdev", "nft_dup_netdev", "nft_objref", "nft_quota", "nft_connlimit",
	}
)

// Profile returns the wanted modules of a kind of machine.
func Profile(name string) ([]string, error) {
	if p, ok := profiles[name]; ok {
		return p, nil
	}
	var names []string
	for n := range profiles {
		names = append(names, n)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("no module profile %q; there is: %s", name, strings.Join(names, ", "))
}
