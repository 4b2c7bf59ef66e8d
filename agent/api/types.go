package api

import (
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Status is the cluster at a glance. Scripts depend on its names.
type Status struct {
	// Healthy: a coordinator, every node online or drained on purpose, every service as wanted.
	Healthy     bool            `json:"healthy"`
	Problems    []string        `json:"problems,omitempty"` // why not healthy, in sentences
	Warnings    []string        `json:"warnings,omitempty"` // all is as wanted, and still worth knowing, in sentences
	Frozen      bool            `json:"frozen,omitempty"`   // the ledger has lost its majority: this is the answering node's copy of it
	Cluster     string          `json:"cluster"`
	Coordinator string          `json:"coordinator"` // node that decides now, empty if there is none
	Answered    string          `json:"answered_by"` // node that gave this answer
	Memory      Memory          `json:"answered_by_memory"`
	Nodes       []NodeStatus    `json:"nodes"`
	Services    []ServiceStatus `json:"services"`
}

// Memory is what Skein itself takes on a node, resident bytes. Most of PID 1's is the program's text, one
// copy of which both share.
type Memory struct {
	Agent int64 `json:"agent_rss_bytes"`
	PID1  int64 `json:"pid1_rss_bytes"`
}

// NodeStatus is one node in Status.
type NodeStatus struct {
	Name      string            `json:"name"`
	State     cluster.NodeState `json:"state"`
	Reason    string            `json:"reason,omitempty"`
	Address   netip.Addr        `json:"address"`   // the node address, good on every link
	Addresses []string          `json:"addresses"` // the ports' own addresses
	Links     []LinkStatus      `json:"links"`
	Epoch     uint64            `json:"epoch"`
	BootID    string            `json:"boot_id"`
	Voter     bool              `json:"voter"`
	Witness   bool              `json:"witness,omitempty"` // it only votes
	Instances int               `json:"instances"`
	CPUs      float64           `json:"cpus"`
	Memory    int64             `json:"memory_bytes"`
	Version   string            `json:"version"`
	// Restarting: its agent has ended and is about to be back; its services go on.
	Restarting bool `json:"agent_restarting,omitempty"`
	// Quarantine is a clause about why it gets no work that another node could do; empty: it is in none.
	Quarantine string `json:"quarantine,omitempty"`
}

// LinkStatus is one port of a node and how the answering node hears it.
type LinkStatus struct {
	Name        string `json:"name"`
	Address     string `json:"address"`
	State       string `json:"state"` // up, silent, one-way, lossy, flapping, unknown (on the answering node itself)
	LossPercent int    `json:"loss_percent,omitempty"`
}

// ServiceStatus is one service in Status.
type ServiceStatus struct {
	Stack     string           `json:"stack"`
	Name      string           `json:"name"`
	Mode      cluster.Mode     `json:"mode"`
	Safety    cluster.Safety   `json:"safety"`
	Image     string           `json:"image"`
	Wanted    int              `json:"wanted"`
	Running   int              `json:"running"`
	Addresses []string         `json:"addresses"`         // floating addresses with published ports
	Pending   []string         `json:"pending,omitempty"` // why instances are missing, node by node
	Instances []InstanceStatus `json:"instances"`
	Update    *UpdateStatus    `json:"update,omitempty"` // the newest change of its specification
}

// InstanceStatus is one instance of a service.
type InstanceStatus struct {
	ID       string                `json:"id"`
	Stack    string                `json:"stack"`
	Service  string                `json:"service"`
	Slot     int                   `json:"slot"`
	Node     string                `json:"node"`
	State    cluster.InstanceState `json:"state"`
	Epoch    uint64                `json:"epoch"`
	Address  string                `json:"address,omitempty"` // the container's
	Restarts int                   `json:"restarts"`
	Message  string                `json:"message,omitempty"`
	Reason   string                `json:"reason"` // why it is on this node
	Started  time.Time             `json:"started,omitzero"`
}

// DeployRequest replaces a stack: services that it no longer has are removed.
type DeployRequest struct {
	Services []cluster.Service `json:"services"`
}

// DeployResult tells what a deploy changed, by full service name.
type DeployResult struct {
	Created   []string `json:"created"`
	Updated   []string `json:"updated"`
	Unchanged []string `json:"unchanged"`
	Removed   []string `json:"removed"`
}

// LogLine is one line of an instance's output.
type LogLine struct {
	Instance string `json:"instance"`
	Line     string `json:"line"`
}

// Error is the body of every answer that is not a success.
type Error struct {
	Message string `json:"error"`
}

// Exec streams: the request body is the command's standard input, the answer is a sequence of frames:
// one byte kind, four bytes big-endian length, payload.
const (
	FrameStdout = 1
	FrameStderr = 2
	FrameExit   = 3 // payload: decimal exit code; the last frame
	FrameError  = 4 // payload: why the command could not be run; the last frame
)

// MaxFrame bounds one frame's payload, bytes.
const MaxFrame = 64 << 10
