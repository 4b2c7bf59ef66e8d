package whatif_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/sim"
	"github.com/skein-os/skein/agent/whatif"
)

// someCluster is a simulated cluster with services of all kinds, some of its nodes off or drained, at rest.
func someCluster(rng *rand.Rand) *sim.Sim {
	s := sim.New(sim.Config{Seed: rng.Uint64(), Nodes: 3 + rng.IntN(5), Quiet: true})
	s.Run(2 * time.Second)
	for i := range 2 + rng.IntN(4) {
		svc := sim.Service(fmt.Sprintf("s%d", i), 1+rng.IntN(3), "")
		switch rng.IntN(5) {
		case 4:
			svc = sim.Service(svc.Name, 1, "")
			svc.Safety, svc.Volumes = cluster.SafetyStorage, []cluster.Volume{{Name: "data", Disk: "disk-" + svc.Name}}
		case 0:
			svc = sim.Service(svc.Name, 1, fmt.Sprintf("10.77.9.%d", 10+i))
		case 1:
			svc.Mode = cluster.ModeGlobal
		case 2:
			svc.Safety = cluster.SafetyPower
		}
		svc.Reserve.Memory = int64(rng.IntN(3)) << 30
		s.Deploy(svc)
	}
	s.Run(3 * time.Second)
	for _, n := range s.Ledger.State().Nodes[1:] {
		switch rng.IntN(8) {
		case 0:
			if _, up, _ := s.Quorum(); n.Voter && up <= 2 {
				break // keep the majority: the question is to be answered by a cluster that works
			}
			s.PowerOff(n.Name)
		case 1:
			_ = s.Drain(n.Name) // refused where it is not online: nothing happens then
		}
	}
	s.Run(4 * time.Second)
	s.Rest(3*time.Second, time.Minute)
	return s
}

// TestAnswersComeTrue asks clusters picked at random what would happen, and then really does it to them.
func TestAnswersComeTrue(t *testing.T) {
	asked := map[string]int{}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		s := someCluster(rng)
		if s.Coordinator() == "" {
			continue
		}
		c := whatif.Cluster{State: s.Ledger.State(), Coordinator: s.Coordinator(), Silent: s.Heard().Silent}
		verb := []string{"off", "off", "on", "drain"}[rng.IntN(4)]
		question := verb + " " + c.State.Nodes[rng.IntN(len(c.State.Nodes))].Name
		f, err := whatif.Parse(question, c)
		if err != nil {
			asked["refused"]++
			continue
		}
		r, err := whatif.Ask(c, f)
		if err != nil {
			t.Fatalf("seed %d, %s: %v", seed, question, err)
		}
		asked[verb]++
		before := s.Where()
		switch f.Verb {
		case "off":
			s.PowerOff(f.Nodes[0])
		case "on":
			s.PowerOn(f.Nodes[0])
		case "drain":
			if err := s.Drain(f.Nodes[0]); err != nil {
				t.Fatal(err)
			}
		}
		s.Run(6 * time.Second) // a machine that is powered on is silent at first
		s.Rest(3*time.Second, time.Minute)
		if got := s.Where(); !maps.Equal(got, r.After) {
			t.Errorf("seed %d, %s: predicted %v, and it became %v (before: %v)\n%s", seed, question, r.After, got, before, strings.Join(r.Sentences, "\n"))
		}
		if _, _, ok := s.Quorum(); ok != r.Majority {
			t.Errorf("seed %d, %s: predicted majority %v, and it became %v", seed, question, r.Majority, ok)
		}
	}
	if t.Logf("asked: %v", asked); asked["off"] < 10 || asked["on"] == 0 || asked["drain"] == 0 {
		t.Errorf("asked %v: too little to show anything", asked)
	}
}
