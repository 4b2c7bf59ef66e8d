package cluster

import (
	"fmt"
	"net/netip"
)

// NodeState is where a node stands in the cluster, as committed in the ledger. The fast, uncommitted
// view (suspect, silent links) belongs to package member.
type NodeState string

const (
	NodeJoining  NodeState = "joining"  // admitted, not yet ready for work
	NodeOnline   NodeState = "online"   // may own services
	NodeDraining NodeState = "draining" // keeps what it has until it runs elsewhere; gets nothing new
	NodeDrained  NodeState = "drained"  // a member that runs no services
	NodeLost     NodeState = "lost"     // committed dead in this boot; only a new boot brings it back
)

// Node is one machine of the cluster. Its identity is its name, its life is its boot: a node that
// rebooted is a new incarnation with a new BootID and a new Epoch.
type Node struct {
	Name      string            `json:"name"`
	Number    uint8             `json:"number"`     // 1..250, allotted at admission, fixes Address and Subnet
	MachineID string            `json:"machine_id"` // SMBIOS UUID or generated; tells a cloned disk from a returning node
	BootID    string            `json:"boot_id"`    // kernel's random boot id: the incarnation
	Epoch     uint64            `json:"epoch"`      // ledger revision of this incarnation's admission
	State     NodeState         `json:"state"`
	Reason    string            `json:"reason,omitempty"` // why it is in State, for people
	Links     []Link            `json:"links"`
	Voter     bool              `json:"voter"`
	Witness   bool              `json:"witness,omitempty"`   // votes and is heard like any other, and never runs a service
	Fetching  bool              `json:"fetching,omitempty"`  // has joined and is not ready to take over yet: it fetches images, and makes containers ahead
	MemberID  uint64            `json:"member_id,omitempty"` // etcd member of this boot, 0 for a worker
	CPUs      float64           `json:"cpus"`
	Memory    int64             `json:"memory_bytes"` // what services may use, bytes
	Labels    map[string]string `json:"labels,omitempty"`
	Version   string            `json:"version"`
	Watchdog  *Watchdog         `json:"watchdog,omitempty"`   // nil: none was found, or it has not been told yet
	Trouble   *Trouble          `json:"trouble,omitempty"`    // how often it was lost lately, over its boots
	Leaving   *Leave            `json:"leaving,omitempty"`    // an operator asked for the end of a boot
	PublicKey string            `json:"public_key,omitempty"` // SHA-256 of the public key it was approved with; empty: it proved the token

	Revision int64 `json:"-"` // ledger's mod revision of this record, filled in by the store
}

// Link is one of a node's ports on a cluster network.
type Link struct {
	Name string       `json:"name"` // eth0; a hint for people, not an identity
	MAC  string       `json:"mac"`
	Addr netip.Prefix `json:"addr"` // the port's own address on its LAN
}

// Network is the address plan that all nodes share: each node N owns the /24 number N of the cluster's
// /16, uses its .1 for itself and hands the rest to its containers. So one route for each peer, moved
// between the links as heartbeats tell, carries all traffic between nodes and containers, and no TCP
// connection between nodes notices the loss of a link.
type Network struct {
	Prefix netip.Prefix `json:"prefix"` // a /16, 10.80.0.0/16 by default
}

// DefaultNetwork is used when the seed names no other.
var DefaultNetwork = Network{Prefix: netip.MustParsePrefix("10.80.0.0/16")}

// Subnet is the /24 of node number n.
func (w Network) Subnet(n uint8) netip.Prefix {
	a := w.Prefix.Addr().As4()
	a[2], a[3] = n, 0
	return netip.PrefixFrom(netip.AddrFrom4(a), 24)
}

// NodeAddr is the address of node number n: the same on every link, for the life of the node.
func (w Network) NodeAddr(n uint8) netip.Addr {
	a := w.Prefix.Addr().As4()
	a[2], a[3] = n, 1
	return netip.AddrFrom4(a)
}

// Ports that Skein uses on a node. All but the heartbeat port speak TLS.
const (
	PortHeartbeat  = 7700 // UDP, on every link: heartbeats, acknowledgements, beacons
	PortAPI        = 7701 // TCP: API, join, image blobs
	PortEtcdClient = 2379 // TCP, on the node address
	PortEtcdPeer   = 2380 // TCP, on the node address
)

// Key is the ledger's key of the node.
func (n *Node) Key() string { return KeyNodes + n.Name }

// MayRun tells whether the planner may give it services, if they fit.
func (n *Node) MayRun() bool { return n.State == NodeOnline && !n.Witness }

func (n *Node) String() string { return fmt.Sprintf("%s (boot %.8s)", n.Name, n.BootID) }
