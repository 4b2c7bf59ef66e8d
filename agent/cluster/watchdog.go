package cluster

import (
	"time"

	"github.com/skein-os/skein/agent/watchdog"
)

// Watchdog is what resets a node's machine by itself, as PID 1 found it in this boot. Only the node writes it.
type Watchdog struct {
	Identity string        `json:"identity"`
	Timeout  time.Duration `json:"timeout_ns"` // from the last feed to the reset
	// Software: it is a timer of the kernel (softdog). A kernel that hangs for good is not reset by it.
	Software bool `json:"software,omitempty"`
	// Bound, if not 0: the machine is reset at the latest so long after the sending of the newest heartbeat that
	// a majority of voters acknowledged. It is written after PID 1 has said that it is bound, and taken back
	// before PID 1 is unbound; each time conditional on the node's record, so never after its loss.
	Bound time.Duration `json:"bound_ns,omitempty"`
}

// WatchdogPolicy is an operator's choice for a node, whatever its boot: whether to be reset when it loses the
// majority, and give proof by that.
type WatchdogPolicy struct {
	Node string `json:"node"`
	On   bool   `json:"on"`
	// SoftdogToo takes softdog for proof as well.
	SoftdogToo bool `json:"softdog_too,omitempty"`

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the policy.
func (p *WatchdogPolicy) Key() string { return KeyWatchdogs + p.Node }

// Watchdog finds the policy of a node, nil if there is none.
func (s *State) Watchdog(node string) *WatchdogPolicy {
	for i := range s.Watchdogs {
		if s.Watchdogs[i].Node == node {
			return &s.Watchdogs[i]
		}
	}
	return nil
}

// Binds tells whether a machine with this watchdog may be bound under the policy; either may be nil.
func (p *WatchdogPolicy) Binds(w *Watchdog) bool {
	return p != nil && p.On && w != nil && w.Timeout > 0 && (!w.Software || p.SoftdogToo)
}

// ResetAfter is for how long nothing of the node may have been acknowledged to prove that its watchdog has reset
// it; 0 if it is not bound.
func (n *Node) ResetAfter() time.Duration {
	if n == nil || n.Watchdog == nil || n.Watchdog.Bound <= 0 {
		return 0
	}
	return watchdog.Expired(n.Watchdog.Bound)
}
