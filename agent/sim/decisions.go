package sim

import (
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/replay"
)

// decided keeps what a machine's coordinator decides. Records are made when somebody asks for them: most
// histories are never asked.
func (s *Sim) decided(d node.Decided) { s.decisions = append(s.decisions, d) }

// Decisions of all coordinators as they would be stored, oldest first.
func (s *Sim) Decisions() ([]replay.Record, error) {
	var out []replay.Record
	of := map[int64]int{}
	for _, d := range s.decisions {
		rev := d.Snapshot.State.Revision
		of[rev]++
		r, err := replay.New(d, of[rev])
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
