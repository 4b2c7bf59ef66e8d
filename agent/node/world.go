package node

import (
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/takeover"
)

// World is all that a Brain needs from outside. No method blocks, and none may call the Brain back:
// outcomes come later, as inputs.
type World interface {
	// Now is CLOCK_BOOTTIME: it rises for the life of the boot and survives the agent.
	Now() time.Duration
	// Wall is the time of day, for people only. Nothing is decided by it.
	Wall() time.Time
	// Rand is a random number; the simulator's are reproducible.
	Rand() uint64

	// Send sends a heartbeat datagram. It may be lost.
	Send(d member.Datagram)
	// Frames is how many frames have come in on the links so far, of whatever kind.
	Frames() uint64
	// Bequeath leaves datagrams with whoever outlives this agent. Called about every second; the newest counts.
	Bequeath(b Bequest)
	// Bind has whoever outlives this agent feed the machine's watchdog only so that it is off at until, on Now's
	// clock; Unbind ends that. Binding is answered by Brain.Bound. The newest call counts.
	Bind(until time.Duration)
	Unbind()
	// Commit starts a transaction. Its outcome comes back as Brain.Committed(id, ...), always and once;
	// bound the wait to about 2 s. err means that the outcome is unknown.
	Commit(id uint64, t cluster.Txn)
	// Run is the complete list of what this node must run now; what is not in it, must not run. An
	// instance with Stop is to be stopped and then reported with InstanceStopped; if it never started
	// it must not be started now, only reported. A complete report of all that is listed is due after
	// the first call, since the Brain may be new in this boot. Idempotent; called when the list changed.
	Run(instances []cluster.Instance)
	// Quiet: a peer has not been heard for half the time after which it counts as silent. What this
	// node would inherit from it may be got ready meanwhile, as long as that has no effects: nothing is decided
	// yet, and it may well be heard again. Called at most every 10 s for one peer.
	Quiet(peer string)
	// Hold is the complete list of floating addresses to answer on, and the deadline, on Now's clock, at
	// which the kernel's guard must end that by itself. Called on each change and each renewal of the
	// lease. It returns true only if an address that is left out has stopped answering. If not, nothing was
	// renewed: what may still answer ends with the deadline that was given last.
	Hold(addrs []Floating, until time.Duration) bool
	// Renounce has this boot answer on no floating address any more, whatever becomes of this agent: none is held
	// when it returns true, and no later agent of this boot will hold one, or be a member at all. False: that
	// could not be made sure of.
	Renounce() bool
	// Routes is the complete list of ways to the peers; called when it has changed.
	Routes(via []Route)
	// Condemn: this boot has been declared lost or removed. Stop all services at once and reboot.
	// Called once; the Brain is inert from then on.
	Condemn(reason string)
	// Power has a node's power controller do something. Its outcome comes back as Brain.Powered with the
	// command's ID, always and once; bound the wait to the command's Within.
	Power(node string, c fence.Command)
	// Volume does one operation of taking over a reserved volume on all paths: RegisterKey, ReserveVolume,
	// ReadKeys or PreemptAbort. Its outcome comes back as Brain.VolumeDone(id, ...), always and once; bound the
	// wait to about 2 s. A command without an answer, or a disk that is not there, is an err, and no outcome.
	Volume(id uint64, v cluster.Volume, op takeover.StorageOp, key, victim takeover.Key)
	// Explain records an event that belongs to no transaction. It may be lost.
	Explain(e cluster.Event)
}

// Bequest is what an agent leaves behind for others to send.
type Bequest struct {
	// Restarts are sent when the agent has ended by itself, for as long as Patience (see member.Core.Will).
	Restarts []member.Datagram
	Patience time.Duration
	// Stopped and Failed are sent when this boot ends (see member.Core.LastWords).
	Stopped, Failed []member.Datagram
}

// Floating is an address that moves with its service, and what to do with what arrives there.
type Floating struct {
	Addr           netip.Addr
	Instance       string // ID of the instance that owns it
	Stack, Service string
	Epoch          uint64
	Ports          []cluster.Port
	Target         netip.Addr // the instance's own address, as it reported
}

// Route is the way to one peer: its /24 goes via Via on Link.
type Route struct {
	Number uint8 // the peer's node number
	Name   string
	Link   string
	Via    netip.Addr
}
