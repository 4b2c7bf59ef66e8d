package job

import "time"

// Pull is what a node says to the coordinator, one after the other: what it has done, what it holds, and how much
// more it could do. Reports that were sent are kept until the coordinator says that they are settled, and repeated in a Hello
// or when there was no answer.
type Pull struct {
	Node string `json:"node"`
	// Life is one run of the node's agent. A new one of the same node has killed all that the one before ran.
	Life string `json:"life"`
	Term int64  `json:"term"` // of the last answer; what an answer of a lower one says is void
	// Hello: Leases and Reports are all there are, and nothing was asked of this coordinator before.
	Hello  bool    `json:"hello,omitempty"`
	CPUs   float64 `json:"cpus"`         // that it has for jobs
	Memory int64   `json:"memory_bytes"` // that it has for jobs
	Free   float64 `json:"free"`         // CPUs that wait for tasks, or soon will
	Room   int64   `json:"room_bytes"`   // memory that no task has reserved
	// Leases are those of which not all results are in Reports that were sent.
	Leases  []Held   `json:"leases,omitempty"`
	Reports []Report `json:"reports,omitempty"`
	// Unsettled is the first report that was sent at any time and is not settled, 0 if there is none.
	Unsettled uint64   `json:"unsettled,omitempty"`
	Jobs      []string `json:"jobs,omitempty"` // whose Spec it has
	// Trouble tells why it can run nothing of some jobs for now, by their ID.
	Trouble map[string]string `json:"trouble,omitempty"`
	// Wait is how long it would wait for something to do, ns.
	Wait time.Duration `json:"wait,omitempty"`
}

// Holder is who holds leases: one life of a node.
func (p *Pull) Holder() string { return p.Node + "/" + p.Life }

// Held is a lease that a node has.
type Held struct {
	Job string `json:"job"`
	Lease
}

// Report are results of one lease, in a message that is told apart from its repetitions by Seq, which rises from 1.
type Report struct {
	Seq     uint64   `json:"seq"`
	Job     string   `json:"job"`
	Lease   uint64   `json:"lease"`
	Results []Result `json:"results"`
}

// Answer is what the coordinator says to a Pull.
type Answer struct {
	Term int64 `json:"term"`
	// Again: nothing was taken; the node has to say Hello first.
	Again  bool    `json:"again,omitempty"`
	Grants []Grant `json:"grants,omitempty"`
	Jobs   []Job   `json:"jobs,omitempty"` // that the node has something of and does not know
	// Drop are leases of the Pull that are void: what runs of them is killed, what comes of them does not count.
	Drop []uint64 `json:"drop,omitempty"`
	// Settled: reports up to this one are in the ledger, or will never count. The node may forget them.
	Settled uint64 `json:"settled,omitempty"`
	// Over are jobs of the Pull that have ended: what is kept ready for them can go.
	Over []string `json:"over,omitempty"`
}

// Grant is a lease and what it takes to run it.
type Grant struct {
	Job string `json:"job"`
	Lease
	Inputs []string `json:"inputs,omitempty"` // of its positions, if the job has inputs
}
