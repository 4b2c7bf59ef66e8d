package job

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/skein-os/skein/agent/cluster"
)

// Keys of the ledger. They are outside of cluster.KeyRoot, which every node watches: outcomes come every half a second.
const (
	KeyTerm   = "/jobs/term"     // Term: who coordinates; every write of outcomes is conditional on it
	KeySpecs  = "/jobs/spec/"    // spec/<id> -> Job
	KeyInputs = "/jobs/input/"   // input/<id>/<6 digits> -> []string
	KeyLog    = "/jobs/outcome/" // outcome/<id>/<10 digits> -> a record of outcomes
)

// Term is written by a coordinator when it begins; the key's revision is the term.
type Term struct {
	Node string `json:"node"`
}

// Key is the ledger's key of the job.
func (j *Job) Key() string { return KeySpecs + j.ID }

func logKey(id string, seq uint64) string { return fmt.Sprintf("%s%s/%010d", KeyLog, id, seq) }

// InputKey is the ledger's key of the n-th record of a job's inputs.
func InputKey(id string, n int) string { return fmt.Sprintf("%s%s/%06d", KeyInputs, id, n) }

// inputRecord is how many bytes of inputs go into one record: the ledger takes 1.5 MiB at once.
const inputRecord = 512 << 10

// SplitInputs divides a job's inputs into records.
func SplitInputs(inputs []string) [][]string {
	var out [][]string
	size := 0
	for i, in := range inputs {
		if i == 0 || size+len(in) > inputRecord {
			out, size = append(out, nil), 0
		}
		out[len(out)-1] = append(out[len(out)-1], in)
		size += len(in) + 8
	}
	return out
}

// outcomes are many outcomes in little room: a list of nodes, and for each outcome the numbers from, to, node, code,
// end, tries.
type outcomes struct {
	Nodes []string `json:"n"`
	Rows  [][6]int `json:"o"`
}

func encodeOutcomes(list []Outcome) outcomes {
	var rec outcomes
	at := map[string]int{}
	for _, o := range list {
		n, ok := at[o.Node]
		if !ok {
			n = len(rec.Nodes)
			at[o.Node], rec.Nodes = n, append(rec.Nodes, o.Node)
		}
		rec.Rows = append(rec.Rows, [6]int{int(o.From), int(o.To), n, o.Code, int(o.End), o.Tries})
	}
	return rec
}

// DecodeOutcomes reads a record of outcomes.
func DecodeOutcomes(data []byte) ([]Outcome, error) {
	var rec outcomes
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, fmt.Errorf("record of outcomes: %w", err)
	}
	out := make([]Outcome, 0, len(rec.Rows))
	for _, r := range rec.Rows {
		if r[0] < 0 || r[1] <= r[0] || r[1] > MaxTasks || r[2] < 0 || r[2] >= len(rec.Nodes) || r[4] < 0 || r[4] > int(NodeLost) {
			return nil, fmt.Errorf("record of outcomes: %v is none", r)
		}
		out = append(out, Outcome{From: int32(r[0]), To: int32(r[1]), Node: rec.Nodes[r[2]], Code: r[3], End: End(r[4]), Tries: r[5]})
	}
	return out, nil
}

// Sorted are outcomes by position, joined where they can be.
func Sorted(list []Outcome) []Outcome {
	all := slices.Clone(list)
	slices.SortFunc(all, func(a, b Outcome) int { return int(a.From) - int(b.From) })
	var out []Outcome
	for _, o := range all {
		out = appendOutcome(out, o)
	}
	return out
}

// putOutcomes is the write of a record of outcomes.
func putOutcomes(id string, seq uint64, list []Outcome) cluster.Put {
	return cluster.Put{Key: logKey(id, seq), Value: encodeOutcomes(list)}
}
