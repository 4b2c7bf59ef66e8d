package member

import (
	"errors"
	"net/netip"
	"time"
)

// Config of a Core. The durations must be the same on all members.
type Config struct {
	Self   string // this node's name
	BootID string // the kernel's random boot id: this incarnation
	// ClusterID tells two clusters on one LAN apart.
	ClusterID string
	// Key authenticates the datagrams (HMAC-SHA256), at least 16 bytes, shared by all members.
	Key []byte
	// Interval between two heartbeats, default 100 ms. Shorter finds losses sooner and costs
	// members squared datagrams.
	Interval time.Duration
	// Silent is how long a node may not be heard before it is reported so, default 400 ms. Below three
	// intervals a lost datagram or two make a false alarm.
	Silent time.Duration
	// Lease is how long a node may answer on guarded addresses after the sending of the newest heartbeat
	// that a majority acknowledged, default 800 ms. Longer tolerates longer stalls, and makes every
	// takeover of an address that much later. At most 4 s: beyond, the margin of 50 ms no longer covers
	// two clocks that are each wrong by 1 %.
	Lease time.Duration
	// Patience is how long a node whose agent has ended, and whose will says so, may be silent before it is
	// suspected; default 8 s: twice what an agent needs to come back on an emulated machine, and ten times
	// what it needs on a real one. Longer helps slower machines; a power cut while the agent restarts is
	// noticed later by as much. At most 30 s.
	Patience time.Duration
	// CountFromReceipt breaks the lease on purpose: it is counted from the receipt of an acknowledgement, and not
	// from when what is acknowledged was sent. For simulators that have to show that they notice.
	CountFromReceipt bool
}

// DefaultConfig holds the default times: 100 ms, 400 ms, 800 ms, and 8 s of patience.
func DefaultConfig() Config {
	return Config{Interval: 100 * time.Millisecond, Silent: 400 * time.Millisecond, Lease: 800 * time.Millisecond, Patience: 8 * time.Second}
}

// Margins of the proof: rates of two clocks may differ by 1 %, and this much besides.
const (
	rateMargin  = 100 // one part in a hundred
	fixedMargin = 50 * time.Millisecond
	maxLease    = 4 * time.Second
)

// proofAge is how old the newest acknowledgement must be to prove that the lease has ended.
func (c *Config) proofAge() time.Duration { return c.Lease + c.Lease/rateMargin + fixedMargin }

// Peer is another member of the cluster, as committed in the ledger.
type Peer struct {
	Name, BootID string
	Voter        bool
	Links        []PeerLink
}

// PeerLink is one way to reach a peer.
type PeerLink struct {
	Link string         // the local link to send on, eth0
	Addr netip.AddrPort // the peer's address there
}

// Datagram is to be sent to To through the local link Link.
type Datagram struct {
	Link    string
	To      netip.AddrPort
	Payload []byte // shared between datagrams of one call: do not change it
}

// What Step returns for datagrams that it did not take. None of them is worth more than a counter: they
// are what a network with other clusters, delays and copies brings.
var (
	ErrMalformed = errors.New("malformed heartbeat")
	ErrForeign   = errors.New("heartbeat of another cluster or of a node that is no member")
	ErrAuth      = errors.New("heartbeat with a wrong authentication tag: sender has another cluster key, or was changed on the way")
	ErrStale     = errors.New("heartbeat is a copy, late, or of an earlier boot")
	// ErrBudget: it came from no peer's address, and too many of those came before it.
	ErrBudget = errors.New("too many datagrams from strangers")
)
