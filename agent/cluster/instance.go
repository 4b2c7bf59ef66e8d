package cluster

import (
	"net/netip"
	"time"
)

// Instance is one assignment: this slot of this service is owned by this node, in this epoch. Written
// by the coordinator only, by compare-and-swap; the owner obeys. Epoch is the ledger revision of the
// claim: a claim of the same slot made later has a higher one, always.
type Instance struct {
	ID      string `json:"id"` // stack.service.slot.suffix: unique for ever
	Stack   string `json:"stack"`
	Service string `json:"service"`
	Slot    int    `json:"slot"` // 1..Replicas; in global mode the node's number
	Node    string `json:"node"`
	BootID  string `json:"boot_id"` // the owner's incarnation; a new boot of the same node does not own it
	// Epoch is the ledger revision that made this claim; the store fills it in from the key's create
	// revision. A later claim of the same slot has a higher one, always.
	Epoch uint64 `json:"epoch"`
	// After names the lost owner of the slot, if it was taken over: until there is proof that it can do
	// no more harm (Spec.Safety says which), this instance may be made ready but must have no effect:
	// it holds no floating address.
	After  *Owner  `json:"after,omitempty"`
	Stop   bool    `json:"stop,omitempty"` // the owner must stop it and report it stopped; then it is removed
	Spec   Service `json:"spec"`           // what it was claimed for, whole: a node needs nothing else to run it
	Reason string  `json:"reason"`         // why this node, why now; for people
	// Failures counts the claims of this slot in a row that failed before this one, FailedOn is where the
	// last of them did, Tried are all nodes where one did, the last one last. The planner tries every node that
	// may have it once, and then one of them at growing distances. What ran well (Status.Settled) begins anew.
	Failures int      `json:"failures,omitempty"`
	FailedOn string   `json:"failed_on,omitempty"`
	Tried    []string `json:"tried,omitempty"`

	Revision int64 `json:"-"` // ledger's mod revision, filled in by the store
}

// Owner is one incarnation of a node that owned a slot.
type Owner struct {
	Node   string `json:"node"`
	BootID string `json:"boot_id"`
	Epoch  uint64 `json:"epoch"`
}

// InstanceState is where an instance is in its life, as its node reports it. States only move forward
// except Running <-> Restarting.
type InstanceState string

const (
	InstancePending    InstanceState = "pending"    // claimed, nothing done yet
	InstancePreparing  InstanceState = "preparing"  // fetching and unpacking the image
	InstanceStarting   InstanceState = "starting"   // container started, not yet healthy
	InstanceRunning    InstanceState = "running"    // running, and healthy if it has a health check
	InstanceUnhealthy  InstanceState = "unhealthy"  // health check failed Retries times; being restarted
	InstanceRestarting InstanceState = "restarting" // exited, waiting for its back-off
	InstanceStopping   InstanceState = "stopping"
	InstanceStopped    InstanceState = "stopped"  // stopped because asked to
	InstanceComplete   InstanceState = "complete" // a job's instance that exited 0
	InstanceFailed     InstanceState = "failed"   // gave up here; Message says why
)

// Ended tells that nothing of the instance runs any more and nothing will by itself.
func (s InstanceState) Ended() bool {
	return s == InstanceStopped || s == InstanceComplete || s == InstanceFailed
}

// Status is what a node reports of one of its instances. Only the owner writes it.
type Status struct {
	ID       string        `json:"id"`
	Node     string        `json:"node"`
	State    InstanceState `json:"state"`
	Message  string        `json:"message,omitempty"` // the error or exit reason, for people
	Address  netip.Addr    `json:"address,omitzero"`  // the container's address
	Restarts int           `json:"restarts"`
	ExitCode int           `json:"exit_code,omitempty"`
	Started  time.Time     `json:"started,omitzero"` // wall clock, for people only
	// Settled: it has run for so long that what failed before it does not count any more.
	Settled bool `json:"settled,omitempty"`

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the assignment: under its node, so that a node watches only its own.
func (i *Instance) Key() string { return KeyInstances + i.Node + "/" + i.ID }

// Key is the ledger's key of the status.
func (s *Status) Key() string { return KeyStatus + s.Node + "/" + s.ID }

// SlotKey names the slot whatever the owner: at most one live claim may hold it. The store guards it:
// a claim creates it, and only the removal of that claim deletes it.
func (i *Instance) SlotKey() string { return SlotKey(i.Stack, i.Service, i.Slot) }
