package store

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/skein-os/skein/agent/cluster"
)

// Defaults of Config.
const (
	// DefaultHeartbeat and DefaultElection: losing the leader stops writes for 0.5 to 0.9 s; 20/200 ms
	// gives about 0.25 s on a clean network and spurious elections on a busy one. A heartbeat twice as often
	// finds the loss no sooner and was a third of what an idle voter has to do.
	DefaultHeartbeat = 100 * time.Millisecond
	DefaultElection  = 500 * time.Millisecond
	// DefaultQuota is the size at which a ledger takes no more commits. It is memory of each voter.
	DefaultQuota = 256 << 20
	// DefaultVoters is how many nodes vote once there are that many nodes.
	DefaultVoters = 3
	// DefaultTryTimeout is how long one endpoint may take over a request before the next is asked, at
	// first; it grows. Short, because a request that a follower passed on to a leader that is dead is
	// never answered, and a repetition does no harm.
	DefaultTryTimeout = 150 * time.Millisecond
	// DefaultCommitTimeout bounds a request whose context has no deadline, so that a lost quorum ends in
	// an error instead of a hanging caller.
	DefaultCommitTimeout = 10 * time.Second
)

// Config is what a node's store needs to know. CAFile, CertFile and KeyFile are read again at every
// handshake except for the CA, so a renewed certificate is used without a restart.
type Config struct {
	Name    string // the node's name
	BootID  string // the kernel's boot id; with Name it identifies the etcd member
	DataDir string // of a voter: in memory, some 30 MB. Wiped when a new member is made
	// Addr is the node address; a voter listens there and nowhere else.
	Addr                 netip.Addr
	ClientPort, PeerPort int    // 2379 and 2380 if zero; for tests
	CAFile               string // PEM
	CertFile, KeyFile    string // PEM; for server and client, with the DNS name "skein"
	Heartbeat, Election  time.Duration
	Voters               int // DefaultVoters if zero
	TryTimeout           time.Duration
	CommitTimeout        time.Duration
	Log                  *slog.Logger  `json:"-"`
	KeepEvery            time.Duration // how often Keep looks at the voters, 1 s if zero
	KeptEvents           int           // how many events are kept, 1000 if zero
	Quota                int64         // bytes that a voter's copy may take, DefaultQuota if zero
	RestoreAfter         time.Duration // DefaultRestoreAfter if zero
	private              bool          // a voter's clients are those of its own process only
	server               grpc.UnaryServerInterceptor
	// Guard, if not nil, is asked for each request of another node.
	Guard Guard `json:"-"`
	// RevokedFile, if not empty, is where WriteRevoked writes; it is read again at every handshake of a voter.
	RevokedFile  string
	WatchSilence time.Duration // a watch that hears nothing for this long changes its endpoint, 1 s if zero
}

// ServerName is the name that every node's certificate carries, so that an address need not be in it.
const ServerName = "skein"

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.Name == "":
		return c, errors.New("store: the node has no name")
	case len(c.BootID) < 8:
		return c, fmt.Errorf("store: boot id %q is too short to identify a boot", c.BootID)
	case !c.Addr.IsValid():
		return c, errors.New("store: the node has no address")
	}
	c.ClientPort = cmp.Or(c.ClientPort, cluster.PortEtcdClient)
	c.PeerPort = cmp.Or(c.PeerPort, cluster.PortEtcdPeer)
	c.Heartbeat = cmp.Or(c.Heartbeat, DefaultHeartbeat)
	c.Election = cmp.Or(c.Election, DefaultElection)
	c.Voters = cmp.Or(c.Voters, DefaultVoters)
	c.TryTimeout = cmp.Or(c.TryTimeout, DefaultTryTimeout)
	c.CommitTimeout = cmp.Or(c.CommitTimeout, DefaultCommitTimeout)
	c.KeepEvery = cmp.Or(c.KeepEvery, time.Second)
	c.KeptEvents = cmp.Or(c.KeptEvents, 1000)
	c.Quota = cmp.Or(c.Quota, DefaultQuota)
	c.RestoreAfter = cmp.Or(c.RestoreAfter, DefaultRestoreAfter)
	c.WatchSilence = cmp.Or(c.WatchSilence, time.Second)
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	return c, nil
}

// memberName is the etcd member's name: the node and its boot.
func (c *Config) memberName() string { return MemberName(c.Name, c.BootID) }

// MemberName names the etcd member of a node's boot.
func MemberName(node, bootID string) string { return fmt.Sprintf("%s.%.8s", node, bootID) }

// splitMemberName is the reverse of MemberName. Node names are DNS labels: they have no dot.
func splitMemberName(member string) (node, boot8 string, ok bool) {
	return strings.Cut(member, ".")
}

func (c *Config) clientURL() url.URL { return endpointURL(c.Addr, c.ClientPort) }
func (c *Config) peerURL() url.URL   { return endpointURL(c.Addr, c.PeerPort) }

func endpointURL(a netip.Addr, port int) url.URL {
	return url.URL{Scheme: "https", Host: net.JoinHostPort(a.String(), strconv.Itoa(port))}
}

// Endpoint is the URL at which the voter at a node address answers clients.
func Endpoint(a netip.Addr) string {
	u := endpointURL(a, cluster.PortEtcdClient)
	return u.String()
}
