package cluster

import (
	"fmt"
	"strings"
)

// Indispensable are the voters without which, each alone, the ledger has no majority: with three voters there are
// none, with fewer all of them are.
func (s *State) Indispensable() []string {
	var voters []string
	for i := range s.Nodes {
		if s.Nodes[i].MemberID != 0 && s.Nodes[i].State != NodeLost {
			voters = append(voters, s.Nodes[i].Name)
		}
	}
	if len(voters) > 2 {
		return nil
	}
	return voters
}

// PairWarning is what an operator of a cluster of two nodes should know, in sentences: there is a node whose
// loss stops the cluster, as two cannot outvote each other. Empty for any other number of nodes, and as long
// as there is no voter.
func (s *State) PairWarning() string {
	stops := s.Indispensable()
	if len(s.Nodes) != 2 || len(stops) == 0 {
		return ""
	}
	const advice = "A third machine as a witness, which only votes, makes the loss of any one of the three harmless: boot it with skein.role=witness"
	if len(stops) == 2 {
		return fmt.Sprintf("two nodes and no witness: both %s must be there for anything to be decided. If one is lost, the other keeps what it runs and takes nothing over until the lost one has been started again. %s",
			strings.Join(stops, " and "), advice)
	}
	other := s.Nodes[0].Name
	if other == stops[0] {
		other = s.Nodes[1].Name
	}
	return fmt.Sprintf("two nodes and no witness: only %[1]s votes. If %[2]s is lost, %[1]s takes over. If %[1]s is lost, %[2]s keeps what it runs and takes nothing over; and if %[1]s reboots, the ledger, which is in its memory alone, is gone: both must be restarted, and the services deployed again. %[3]s",
		stops[0], other, advice)
}
