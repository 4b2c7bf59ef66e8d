package sim

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// TestRandomPower: whatever machines, networks and power controllers do, what needs proof of power never runs
// twice (checkAlone), no node fences one that fences it, and it moves again when all is well.
func TestRandomPower(t *testing.T) {
	moved, cut := 0, 0
	for seed := range uint64(runs(t, 150)) {
		rng := rand.New(rand.NewPCG(seed, 7))
		s := New(Config{Seed: seed, Nodes: 3 + rng.IntN(3), Skew: 0.002})
		svc := Service("db", 1, "")
		svc.Safety = cluster.SafetyPower
		s.Deploy(svc)
		pick := func() string { return s.nodes[rng.IntN(len(s.nodes))].name }
		for _, m := range s.nodes {
			if err := s.BMC(m.name, "ok"); err != nil {
				t.Fatal(err)
			}
		}
		s.Run(3 * time.Second)
		for range 6 {
			n := pick()
			switch rng.IntN(8) {
			case 0:
				s.PowerOff(n)
			case 1:
				s.Freeze(n, []string{"running", "standing"}[rng.IntN(2)])
			case 2:
				s.Partition(n)
			case 3:
				s.Heal()
			case 4:
				s.Thaw(n)
			case 5:
				s.PowerOn(n)
			default:
				if err := s.BMC(n, []string{"ok", "lie", "hang", "refuse", "slow"}[rng.IntN(5)]); err != nil {
					t.Fatal(err)
				}
			}
			s.Run(s.between(0, 8*time.Second))
			noMutualFencing(t, s)
		}
		log := strings.Join(s.Log, "\n")
		moved += strings.Count(log, "may run demo/db.1 in place of")
		cut += strings.Count(log, "is switched off by its controller")
		if len(s.Violations) > 0 {
			t.Fatalf("seed %d: %v\n%s", seed, s.Violations, log)
		}
	}
	t.Logf("%d takeovers with proof, %d machines switched off", moved, cut)
	if moved == 0 || cut == 0 {
		t.Error("nothing was fenced: the histories prove nothing")
	}
}

// noMutualFencing: two running records that name each other would let both be cut.
func noMutualFencing(t *testing.T, s *Sim) {
	t.Helper()
	st := s.Ledger.State()
	for i := range st.Fences {
		a := &st.Fences[i]
		b := st.Fence(a.By)
		if a.State == cluster.FenceRunning && b != nil && b.State == cluster.FenceRunning && b.By == a.Node && b.ByBoot == a.BootID && b.BootID == a.ByBoot {
			t.Fatalf("%s and %s fence each other:\n%s", a.Node, b.Node, strings.Join(s.Log, "\n"))
		}
	}
}
