package scenario

import (
	"net/netip"
	"time"
)

// Bounds of a script.
const (
	MostNodes = 50
	MostSteps = 1000 // lines with a step
	// Longest is how much time the waits of a script may take in all, repetitions and flapping counted.
	Longest = 2 * time.Hour

	mostText     = 1 << 20 // bytes
	mostReplicas = 100
	mostRepeats  = 100
	mostMemory   = 1 << 10 // GiB
	longestWait  = 10 * time.Minute
	farthest     = 10 * 366 * 24 * time.Hour // of a wall clock
)

// DiskFaults are what a disk can do: restart and keep its registrations, restart and forget them, answer slowly,
// not at all, as it should, and have a host register that is no member.
var DiskFaults = []string{"restarts", "forgets", "slow", "gone", "ok", "foreign"}

// Script is a scenario.
type Script struct {
	Fault  int    // of the catalogue, 0: none
	InPart string // what of the fault's outcome it does not show, empty if nothing
	Cluster
	Steps []Step
}

// Cluster is what a scenario is played on.
type Cluster struct {
	Nodes  int
	Voters int // 0: the stage's default
	Seed   uint64
	// ClusterDisk: the ledger outlasts a loss of power of all nodes.
	ClusterDisk bool
}

// Step is one line.
type Step struct {
	Line int
	Do   Action
}

// Action is what a step does or expects: one of the types below. String is the line that parses to it.
type Action interface{ String() string }

// Fields called Node or Nodes hold the words of the script; the player replaces them by names of nodes
// before a Stage sees them.
type (
	// Deploy writes a service.
	Deploy struct {
		Service  string
		Replicas int
		Address  netip.Addr // zero: none
		Safety   string     // lease or power
		Global   bool
		Memory   int // GiB, reserved
		Volume   bool
		Spec     string
	}
	// Remove takes a service away.
	Remove struct{ Service string }
	// Fail makes an instance give up on its node.
	Fail struct{ Service string }
	// Hang makes instances ignore that they are told to stop.
	Hang struct{ Service string }

	// Settle waits until all runs.
	Settle struct{}
	// Wait lets time pass.
	Wait struct{ For time.Duration }
	// Repeat does steps again and again.
	Repeat struct {
		Times int
		Steps []Step
	}

	// Power of a machine.
	Power struct {
		Node string
		On   bool
	}
	// Reboot begins a new boot. Fast: it is back before anybody suspects it.
	Reboot struct {
		Node string
		Fast bool
	}
	// Panic ends a kernel.
	Panic struct{ Node string }
	// Freeze makes a machine stand still; its Clock is standing or running.
	Freeze struct{ Node, Clock string }
	// Thaw lets it go on.
	Thaw struct{ Node string }
	// Clock makes a wall clock jump.
	Clock struct {
		Node string
		By   time.Duration
	}
	// Agent stops or starts.
	Agent struct {
		Node  string
		Start bool
	}
	// Link of a machine: Link is eth0, eth1 or all, Direction in, out or empty for both.
	Link struct {
		Node, Link, Direction string
		Up                    bool
	}
	// Flap takes a link down and up again for a while.
	Flap struct {
		Node, Link  string
		Period, For time.Duration
	}
	// Partition separates groups from each other and from all others.
	Partition struct{ Groups [][]string }
	// Cut separates two nodes. OneWay: only what From sends to To.
	Cut struct {
		From, To string
		OneWay   bool
	}
	// Heal undoes all faults of the network.
	Heal struct{}
	// Loss of datagrams, and how much their delay varies.
	Loss struct {
		Percent int
		Jitter  time.Duration
	}
	// Copies is how many datagrams arrive twice.
	Copies struct{ Percent int }
	// Corrupt is how many datagrams have a flipped bit.
	Corrupt struct{ Percent int }

	// Drain empties a node.
	Drain struct{ Node string }
	// Undrain lets it work again.
	Undrain struct{ Node string }
	// Confirm is an operator's word that a machine is off.
	Confirm struct{ Node string }
	// BMC is how a power controller behaves.
	BMC struct{ Node, Mode string }
	// Path of a node to the disk of a service's volume.
	Path struct {
		Node, Service string
		Up            bool
	}
	// Disk of a service's volume: Fault is one of DiskFaults.
	Disk struct{ Service, Fault string }
	// Coordinator makes a node lead.
	Coordinator struct{ Node string }

	// Where is an expectation: the service runs on some of these nodes only. No node: nowhere.
	Where struct {
		Service string
		Nodes   []string
	}
	// NodeState is an expectation of a node's state in the ledger.
	NodeState struct{ Node, State string }
	// Outage is an expectation of the longest time without an answer.
	Outage struct {
		Service string
		More    bool // than Than, else less
		Than    time.Duration
	}
	// Takeovers is an expectation of how many instances were claimed after a lost owner.
	Takeovers struct {
		Fewer bool // than Count
		Count int
	}
	// Happened is an expectation of an event with this text.
	Happened struct {
		No   bool
		Text string
	}
	// Rebooted is an expectation that a node's boot has ended.
	Rebooted struct {
		No   bool
		Node string
	}
	// Writes is an expectation that writes to a service's volume are acknowledged, or none.
	Writes struct {
		No      bool
		Service string
	}
	// Pending is an expectation of what is missing for a service.
	Pending struct{ Service, Text string }
)
