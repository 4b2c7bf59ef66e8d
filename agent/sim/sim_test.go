package sim

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// runs is the number of random histories; SKEIN_SIM_RUNS raises it.
func runs(t *testing.T, n int) int {
	if v := os.Getenv("SKEIN_SIM_RUNS"); v != "" {
		k, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("SKEIN_SIM_RUNS: %v", err)
		}
		return k
	}
	if testing.Short() {
		return n / 10
	}
	return n
}

// TestRandom plays random histories, and shrinks the first that fails. SKEIN_SIM_SEED plays one again, with its log, and
// SKEIN_SIM_HISTORY one of a file, which may be a shrunk one.
func TestRandom(t *testing.T) {
	if v := os.Getenv("SKEIN_SIM_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("SKEIN_SIM_SEED: %v", err)
		}
		r := Random(seed, true)
		t.Logf("%s", strings.Join(r.Log, "\n"))
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return
	}
	if v := os.Getenv("SKEIN_SIM_HISTORY"); v != "" {
		r, err := playFile(v)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", strings.Join(r.Log, "\n"))
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return
	}
	n := runs(t, 1000)
	var mu sync.Mutex
	quorum, excused, failed, takeovers, acked := 0, 0, 0, 0, 0
	var virtual time.Duration
	var cuts []time.Duration
	faults := map[string]int{}
	seeds := make(chan uint64)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range seeds {
				r := Random(seed, false)
				mu.Lock()
				virtual += r.Virtual
				takeovers += r.Takeovers
				acked += r.Acked
				cuts = append(cuts, r.Cuts...)
				for k, v := range r.Faults {
					faults[k] += v
				}
				if r.Quorum {
					quorum++
				}
				excused += r.Excused
				if r.Err != nil && failed < 10 {
					failed++
					t.Errorf("seed %d: %v\n(play it again: SKEIN_SIM_SEED=%d go test ./agent/sim -run TestRandom -v)", seed, r.Err, seed)
					if failed == 1 {
						small, tries := Shrink(r.History, func(h History) bool { return h.play(false, nil).Err != nil })
						t.Errorf("seed %d: %d of its %d steps are enough (%d histories were tried):\n%s\n(with the last line in a file: SKEIN_SIM_HISTORY=FILE go test ./agent/sim -run TestRandom -v)",
							seed, len(small.Steps), len(r.History.Steps), tries, small)
					}
				}
				mu.Unlock()
			}
		})
	}
	for seed := range uint64(n) {
		seeds <- seed
	}
	close(seeds)
	wg.Wait()
	t.Logf("%d histories, the voters survived in %d, %d overlaps were of machines whose clock had stood or of disks that had forgotten their reservation", n, quorum, excused)
	t.Logf("%d writes to reserved volumes were acknowledged", acked)
	if acked < 10*n {
		t.Errorf("%d acknowledged writes in %d histories: they prove nothing", acked, n)
	}
	t.Logf("%.1f virtual hours, %d takeovers; faults: %v", virtual.Hours(), takeovers, faults)
	if slices.Sort(cuts); len(cuts) > 0 {
		t.Logf("outage after a power cut of the owner alone: p50 %v, p99 %v, max %v (%d cuts)",
			cuts[len(cuts)/2], cuts[len(cuts)*99/100], cuts[len(cuts)-1], len(cuts))
	}
	if quorum < n/2 {
		t.Errorf("the voters survived in %d of %d histories only: what is left proves too little", quorum, n)
	}
}

// TestSameSeedSameHistory: without that, a seed is worth nothing.
func TestSameSeedSameHistory(t *testing.T) {
	a, b := Random(11, true), Random(11, true)
	if quiet := Random(11, false); quiet.Virtual != a.Virtual || quiet.Takeovers != a.Takeovers {
		t.Errorf("without its log: %v and %d takeovers, want %v and %d", quiet.Virtual, quiet.Takeovers, a.Virtual, a.Takeovers)
	}
	if !slices.Equal(a.Log, b.Log) {
		for i := range a.Log {
			if i >= len(b.Log) || a.Log[i] != b.Log[i] {
				t.Fatalf("line %d:\n%s\n%s", i, a.Log[i], b.Log[min(i, len(b.Log)-1)])
			}
		}
	}
}

// TestOutage measures power cuts, of ordinary nodes and of the coordinator, in virtual time.
func TestOutage(t *testing.T) {
	for _, who := range []string{"ordinary node", "coordinator"} {
		var gaps []time.Duration
		for seed := range uint64(40) {
			s := New(Config{Seed: seed, Nodes: 3, Skew: 0.002})
			svc := Service("web", 1, "10.77.9.10")
			s.Deploy(svc)
			addr := svc.Floating[0]
			p := s.ProbeAddr(addr)
			if !s.Until(20*time.Second, func() bool { return len(s.Missing()) == 0 }) {
				t.Fatalf("seed %d: %v\n%s", seed, s.Missing(), strings.Join(s.Log, "\n"))
			}
			s.Run(time.Second + s.between(0, 200*time.Millisecond))
			if owner := s.machine(s.Owner(addr)); who == "coordinator" {
				s.leader = owner
			} else if s.leader == owner {
				s.leader = s.nodes[int(owner.number)%3]
			}
			s.spread()
			s.Run(200 * time.Millisecond)
			p.Reset()
			s.PowerOff(s.Owner(addr))
			s.Run(6 * time.Second)
			gaps = append(gaps, p.Longest)
			if len(s.Violations) > 0 {
				t.Fatalf("seed %d: %v", seed, s.Violations)
			}
		}
		slices.Sort(gaps)
		t.Logf("power cut of %s: outage p50 %v, max %v (%d cuts)", who, gaps[len(gaps)/2], gaps[len(gaps)-1], len(gaps))
	}
}

// TestCheckerSees breaks the rules on purpose: a checker that finds nothing then is worth nothing.
func TestCheckerSees(t *testing.T) {
	for name, cfg := range map[string]Config{
		"as it should be":             {},
		"a guard that does not end":   {guardForever: true},
		"a lease that others deny":    {leaseOf: map[string]time.Duration{"n1": 3 * time.Second}},
		"a clock that is a third off": {Skew: 0.6},
	} {
		found := false
		for seed := uint64(0); seed < 20 && !found; seed++ {
			cfg.Nodes, cfg.Seed = 3, seed
			s := New(cfg)
			svc := Service("web", 1, "10.77.9.10")
			s.Deploy(svc)
			s.Run(3 * time.Second)
			for _, n := range []string{"n1", "n2", "n3"} {
				if s.Owner(svc.Floating[0]) == n {
					s.Partition(n)
				}
			}
			s.Run(5 * time.Second)
			found = len(s.Violations) > 0
		}
		if want := name != "as it should be"; found != want {
			t.Errorf("%s: violation found %v, want %v", name, found, want)
		}
	}
}
