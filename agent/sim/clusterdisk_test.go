package sim

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// TestBlackouts: random histories with a cluster disk, in each of which all machines lose power in the end. All must
// run again: nothing that was committed is forgotten, and no claim has an epoch that was given before.
func TestBlackouts(t *testing.T) {
	runs := 400
	if testing.Short() {
		runs = 40
	}
	restored, acked := 0, 0
	for seed := range uint64(runs) {
		r := random(seed, false, func(c *Config) { c.ClusterDisk = true })
		if r.Err == nil && !r.Quorum {
			r.Err = errNoLedger
		}
		if r.Err != nil {
			again := random(seed, true, func(c *Config) { c.ClusterDisk = true })
			t.Fatalf("seed %d: %v\n%s", seed, r.Err, strings.Join(again.Log, "\n"))
		}
		restored += r.sim.Restored
		acked += r.Acked
	}
	if restored < runs {
		t.Errorf("%d restorations in %d histories", restored, runs)
	}
	t.Logf("%d histories, %d restorations, %d writes acknowledged by reserved volumes", runs, restored, acked)
}

var errNoLedger = errors.New("no ledger at the end")

// After a restoration each claim has a higher epoch than any before, and a disk's reservation with it.
func TestEpochsRiseOverARestoration(t *testing.T) {
	s, _ := withVolume(t, Config{Seed: 5, ClusterDisk: true})
	web := Service("web", 1, "10.77.9.10")
	web.Safety = cluster.SafetyPower
	s.Deploy(web)
	highest := uint64(0)
	for round := range 3 {
		if !s.Until(60*time.Second, func() bool { return len(s.Missing()) == 0 && s.leader != nil }) {
			t.Fatalf("round %d: %v\n%s", round, s.Missing(), strings.Join(s.Log, "\n"))
		}
		s.Run(2 * time.Second)
		now := s.claimEpochs()
		if len(now) != 2 {
			t.Fatalf("round %d: claims %v", round, now)
		}
		for slot, e := range now {
			if e <= highest {
				t.Errorf("round %d: %s was claimed in epoch %d, and %d was given out before", round, slot, e, highest)
			}
		}
		highest = uint64(s.Ledger.revision)
		s.Blackout(300*time.Millisecond, 5*time.Second)
	}
	if len(s.Violations) > 0 || s.Restored < 2 {
		t.Errorf("%d restorations, %v", s.Restored, s.Violations)
	}
}

// Without the majority that the decision wants, the simulator's judge sees two ledgers.
func TestRestoringTooEarlyIsSeen(t *testing.T) {
	s := New(Config{Seed: 1, Nodes: 3, ClusterDisk: true})
	s.Run(5 * time.Second)
	s.Partition("n3")
	l := &clusterdisk.Ledger{Incarnation: 1, Revision: s.Ledger.revision}
	s.restoreOn(s.machine("n3"), clusterdisk.Verdict{Action: clusterdisk.Restore, Copy: &clusterdisk.Copy{Ledger: l}}, nil)
	if len(s.Violations) == 0 {
		t.Error("a restoration beside a living majority was not seen")
	}
}
