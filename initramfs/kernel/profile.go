package kernel

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-os/skein/qemu/san"
)

// Profiles name the sets of modules for kinds of machines.
var profiles = map[string][]string{
	// virtual: QEMU machines with virtio devices.
	"virtual": slices.Concat(virtio, watchdogs, containers, filters),
	// server: rack servers, with the network cards, disk controllers and consoles that they have. No firmware is with
	// them: what Debian may ship of it is in non-free-firmware, which is no part of Skein.
	"server": slices.Concat(virtio, watchdogs, serverWatchdogs, cards, controllers, consoles, containers, filters),
	// san: the lab's storage array, whose first program loads all by itself.
	"san": nil,
}

var (
	virtio = []string{
		"virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "qemu_fw_cfg",
		"vsock", "vsock_loopback", "vmw_vsock_virtio_transport",
	}
	watchdogs = []string{"i6300esb", "softdog"}
	// serverWatchdogs come before the software's.
	serverWatchdogs = []string{"iTCO_wdt", "sp5100_tco", "hpwdt", "ipmi_si", "ipmi_devintf", "ipmi_watchdog"}
	cards           = []string{
		"e1000e", "igb", "igc", "ixgbe", "i40e", "ice", "bnxt_en", "tg3", "mlx4_en", "mlx5_core", "r8169", "be2net", "qede",
		"bnx2x", "ena", "vmxnet3", "bonding", "8021q",
	}
	controllers = []string{
		"ahci", "ata_piix", "nvme", "mpt3sas", "megaraid_sas", "smartpqi", "hpsa", "aacraid", "lpfc", "qla2xxx", "mptsas",
		"vmw_pvscsi", "virtio_scsi", "sd_mod",
	}
	consoles   = []string{"xhci_pci", "ehci_pci", "usb_storage", "uas", "usbhid"}
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

// onDemand names what a kind of machine has in its image and loads when it is needed: a machine without a SAN
// boots as fast as if none of it were there.
var onDemand = map[string][]string{
	"virtual": slices.Concat(sanDisks, multipath, fileSystems),
	"server":  slices.Concat(sanDisks, multipath, fileSystems),
	"san":     san.Modules,
}

var (
	sanDisks  = []string{"sd_mod", "sg", "iscsi_tcp", "scsi_dh_alua", "virtio_scsi", "nvme_core", "nvme_tcp"}
	multipath = []string{"dm_multipath", "dm_round_robin", "dm_queue_length", "dm_service_time"}
	// ext4 and xfs find their checksums by name, which a node cannot load: crc32c is among what they depend on.
	fileSystems = []string{"ext4", "xfs", "nfs", "nfsv3", "nfsv4", "dlm", "gfs2"}
)

// OnDemand returns the modules that a kind of machine loads when they are needed.
func OnDemand(name string) ([]string, error) {
	if _, err := Profile(name); err != nil {
		return nil, err
	}
	return onDemand[name], nil
}

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
