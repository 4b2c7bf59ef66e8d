package writers

import (
	"net/netip"
	"time"
)

// Verdict is the judgement in a word.
type Verdict string

const (
	// Nothing: no write to a disk for one writer was seen. It is not a good verdict: it is none.
	Nothing Verdict = "nothing"
	// Clean: all writes were judged, and there never were two writers.
	Clean Verdict = "clean"
	// Partly: there were none where the judge could see, and it could not see everything.
	Partly Verdict = "partly"
	// Suspect: there are overlaps or doubtful violations.
	Suspect Verdict = "suspect"
	// TwoWriters: a fenced node has written, without doubt.
	TwoWriters Verdict = "two writers"
)

// Fault is how a write came after a fence.
type Fault string

const (
	Late Fault = "late" // sent after it
	Held Fault = "held" // sent before it, received by the target after it
)

// Fence closes a disk to a node.
type Fence struct {
	Time    time.Time `json:"time"` // of the target's GOOD
	Node    string    `json:"node"`
	By      string    `json:"by"`
	Command string    `json:"command"`
	Key     string    `json:"key"` // that was taken away
}

// Violation is a second writer. Later writes of the same node after the same fence are counted, not listed.
type Violation struct {
	Time      time.Time      `json:"time"` // of the answer
	Target    string         `json:"target"`
	LUN       uint64         `json:"lun"`
	Node      string         `json:"node"`
	Initiator string         `json:"initiator"`
	LAN       int            `json:"lan"`
	Client    netip.AddrPort `json:"client"`
	Command   byte           `json:"opcode"` // of SCSI
	Fault     Fault          `json:"fault"`
	Sent      time.Time      `json:"sent"`     // into the switch
	Received  time.Time      `json:"received"` // by the target, at the earliest
	LateMs    float64        `json:"late_ms"`  // received after the fence
	Fence     Fence          `json:"fence"`
	Doubt     string         `json:"doubt,omitempty"` // why it is not certain
	Writes    int            `json:"writes"`
}

// Overlap is a node that wrote where another one was the writer, without a fence between them.
type Overlap struct {
	Time     time.Time `json:"time"` // of the first write
	Target   string    `json:"target"`
	LUN      uint64    `json:"lun"`
	Node     string    `json:"node"`
	Over     string    `json:"over"`     // who held the reservation, or had written
	Reserved bool      `json:"reserved"` // Over held the reservation; else there was none
	Writes   int       `json:"writes"`   // of Node while Over held it; else the turns from Over to Node
}

// Move is a change of who holds the reservation. To is empty: nobody.
type Move struct {
	Time    time.Time `json:"time"` // of the target's GOOD
	Target  string    `json:"target"`
	LUN     uint64    `json:"lun"`
	From    string    `json:"from,omitempty"`
	To      string    `json:"to,omitempty"`
	Command string    `json:"command"`
	Key     string    `json:"key,omitempty"` // that was preempted
}

// Gap is a time in which one direction of a connection was not judged.
type Gap struct {
	Time    time.Time      `json:"time"`
	Until   time.Time      `json:"until"` // zero: still
	LAN     int            `json:"lan"`
	Node    string         `json:"node"`
	Client  netip.AddrPort `json:"client"`
	Server  netip.AddrPort `json:"server"`
	Answers bool           `json:"answers"` // the target's direction
	Bytes   uint64         `json:"bytes"`   // not judged
}

// Writer is what a node did to a disk.
type Writer struct {
	Node      string    `json:"node"`
	Initiator string    `json:"initiator"`
	Writes    uint64    `json:"writes"` // answered GOOD
	Bytes     uint64    `json:"bytes"`  // of these, as the initiator announced them
	Last      time.Time `json:"last"`
	Conflicts uint64    `json:"conflicts"` // writes answered RESERVATION CONFLICT
	Refused   uint64    `json:"refused"`   // of these, while fenced: the fence at work
	Failed    uint64    `json:"failed"`    // writes answered otherwise
	// Straddled are writes that were sent before a fence and answered GOOD after it, the latest by StraddledMs.
	Straddled   uint64  `json:"straddled"`
	StraddledMs float64 `json:"straddled_ms"`
}

// Key is a registration.
type Key struct {
	Node      string `json:"node"`
	Initiator string `json:"initiator"`
	ISID      string `json:"isid"`
	Group     int    `json:"group"` // of the target's portals
	Key       string `json:"key"`
	Holder    bool   `json:"holder"`
}

// Disk is one LUN of a target.
type Disk struct {
	Target     string    `json:"target"`
	LUN        uint64    `json:"lun"`
	Shared     bool      `json:"shared"` // nobody is accused
	Owner      string    `json:"owner"`  // who holds the reservation
	Since      time.Time `json:"since"`
	Commands   uint64    `json:"commands"`
	Reserves   uint64    `json:"reserves"` // PERSISTENT RESERVE OUT that were answered
	Writers    []Writer  `json:"writers"`
	Keys       []Key     `json:"keys"`
	Fenced     []Fence   `json:"fenced"` // now
	Moves      []Move    `json:"moves"`
	MoveCount  int       `json:"move_count"` // also those for which the list has no room
	Strange    int       `json:"strange"`    // preempted keys that no other node was seen to have
	Violations int       `json:"violations"` // certain ones
	Doubtful   int       `json:"doubtful"`
	Overlaps   int       `json:"overlaps"`
}

// Connection to a target that was seen lately.
type Connection struct {
	LAN          int            `json:"lan"`
	Client       netip.AddrPort `json:"client"`
	Server       netip.AddrPort `json:"server"`
	Node         string         `json:"node"`
	Initiator    string         `json:"initiator"`
	ISID         string         `json:"isid"`
	Target       string         `json:"target"`
	Group        int            `json:"group"` // of the target's portals
	HeaderDigest string         `json:"header_digest"`
	DataDigest   string         `json:"data_digest"`
	Since        time.Time      `json:"since"`
	Last         time.Time      `json:"last"`
	Closed       bool           `json:"closed"`
	Commands     uint64         `json:"commands"`
	Writes       uint64         `json:"writes"`     // answered GOOD
	Unanswered   uint64         `json:"unanswered"` // writes and reservations that never were
}

// Report is what was seen so far. The counts are of disks that are not shared, but for Commands.
type Report struct {
	Verdict     Verdict      `json:"verdict"`
	Commands    uint64       `json:"commands"` // SCSI commands that were decoded
	Judged      uint64       `json:"judged"`   // of these, to disks that are not shared
	Writes      uint64       `json:"writes"`   // of these, writes that were answered, also with a refusal
	Disks       []Disk       `json:"disks"`    // by target and LUN
	Violations  []Violation  `json:"violations"`
	TwoWriters  int          `json:"two_writers"` // certain violations, also those for which the list has no room
	Doubtful    int          `json:"doubtful"`
	Overlaps    []Overlap    `json:"overlaps"`
	Overlapping int          `json:"overlapping"` // overlaps, also those for which the list has no room
	Gaps        []Gap        `json:"gaps"`
	GapCount    int          `json:"gap_count"`
	Unjudged    uint64       `json:"unjudged_bytes"`
	Dropped     uint64       `json:"dropped"` // commands and connections for which there was no room
	Connections []Connection `json:"connections"`
	Connected   uint64       `json:"connected"` // connections there ever were
}

// Record is one line of what a follower is told: one of these.
type Record struct {
	Move      *Move      `json:"move,omitempty"`
	Violation *Violation `json:"violation,omitempty"`
	Overlap   *Overlap   `json:"overlap,omitempty"`
	Gap       *Gap       `json:"gap,omitempty"`
}

// lun is the disk that a record is about; ok false: none.
func (r Record) lun() (lun uint64, ok bool) {
	switch {
	case r.Move != nil:
		return r.Move.LUN, true
	case r.Violation != nil:
		return r.Violation.LUN, true
	case r.Overlap != nil:
		return r.Overlap.LUN, true
	}
	return 0, false
}
