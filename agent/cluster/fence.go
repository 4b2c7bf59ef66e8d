package cluster

import "time"

// BMC is a node's power controller: what switches the machine off when nobody can ask the node itself. The
// password is not in it, but among the secrets (BMCSecret): no copy of the State ever holds one.
type BMC struct {
	Node   string    `json:"node"`
	Driver BMCDriver `json:"driver"`
	// Addresses are the ways to the same controller, host:port each, tried in order.
	Addresses []string `json:"addresses"`
	User      string   `json:"user"`
	// Fingerprint is the SHA-256 of its certificate, in hex: whoever shows another one gets no password.
	// IPMI has no certificate.
	Fingerprint string `json:"fingerprint,omitempty"`
	// System is the path of the machine on a Redfish service that manages several.
	System string `json:"system,omitempty"`
	// After is what becomes of a machine that was running until fencing switched it off: On (default) starts
	// it again, so that a wrong suspicion costs a restart; Off leaves it to an operator.
	After PowerAfter `json:"after,omitempty"`

	Revision int64 `json:"-"`
}

// BMCDriver is the protocol of a power controller.
type BMCDriver string

const (
	DriverRedfish BMCDriver = "redfish" // HTTPS, DMTF DSP0266
	DriverIPMI    BMCDriver = "ipmi"    // IPMI 2.0, RMCP+ ("lanplus")
)

// PowerAfter is what becomes of a machine that was fenced.
type PowerAfter string

const (
	AfterOn  PowerAfter = "on"
	AfterOff PowerAfter = "off"
)

// BMCSecret names the secret that holds the password of a node's BMC.
func BMCSecret(node string) string { return "bmc/" + node }

// Key is the ledger's key of the power controller.
func (b *BMC) Key() string { return KeyBMCs + b.Node }

// Fence is the record of fencing one node: who does it, since when, and what came of it. There is one for
// each node, the newest; it is written by compare-and-swap, and begun only while nobody fences the fencer.
type Fence struct {
	Node    string     `json:"node"`
	BootID  string     `json:"boot_id"` // the incarnation that is fenced: the record says nothing of others
	Level   FenceLevel `json:"level"`
	State   FenceState `json:"state"`
	By      string     `json:"by"` // the node that does it, or the operator who said so
	ByBoot  string     `json:"by_boot,omitempty"`
	Since   time.Time  `json:"since"`            // wall clock, for people only
	Changed time.Time  `json:"changed,omitzero"` // wall clock, for people only
	Rounds  int        `json:"rounds,omitempty"` // how often all ways were tried without success
	Text    string     `json:"text,omitempty"`   // what came of it so far, a clause for people
	// Cut: the machine ran and was switched off by this. Then Restarted tells that the start of it, if
	// wanted, has been seen to.
	Cut       bool `json:"cut,omitempty"`
	Restarted bool `json:"restarted,omitempty"`

	Revision int64 `json:"-"`
}

// FenceLevel is a rung of the ladder of proof (DESIGN.md section 5).
type FenceLevel string

const (
	FencePower    FenceLevel = "L2" // the power controller reads off
	FenceWatchdog FenceLevel = "L3" // its watchdog, bound to the member lease, has reset it
	FenceOperator FenceLevel = "L4" // an operator says that the machine is off
)

// FenceState is where fencing stands.
type FenceState string

const (
	FenceRunning FenceState = "running" // being tried
	FenceFailed  FenceState = "failed"  // all was tried without success; it is tried again
	FenceOff     FenceState = "off"     // proof: the incarnation has ended
)

// Key is the ledger's key of the record.
func (f *Fence) Key() string { return KeyFences + f.Node }

// BMC finds the power controller of a node, nil if there is none.
func (s *State) BMC(node string) *BMC {
	for i := range s.BMCs {
		if s.BMCs[i].Node == node {
			return &s.BMCs[i]
		}
	}
	return nil
}

// Fence finds the newest record of fencing a node, nil if there is none.
func (s *State) Fence(node string) *Fence {
	for i := range s.Fences {
		if s.Fences[i].Node == node {
			return &s.Fences[i]
		}
	}
	return nil
}

// Confirmation is the record of an operator's word that a lost node is off (L4), and the conditions under
// which it may be written: the node is still lost in the boot that the operator looked at, and nobody has
// written a record since.
func Confirmation(st *State, n *Node, operator string, at time.Time) (Fence, []Condition) {
	rec := Fence{Node: n.Name, BootID: n.BootID, Level: FenceOperator, State: FenceOff, By: operator, Since: at, Changed: at,
		Text: "operator " + operator + " has confirmed it"}
	cond := []Condition{{Key: n.Key(), Revision: n.Revision}, {Key: rec.Key()}}
	if old := st.Fence(n.Name); old != nil {
		cond[1].Revision = old.Revision
	}
	return rec, cond
}
