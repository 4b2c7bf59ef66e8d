package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// withVolume is a cluster that runs a service on a reserved disk, and where.
func withVolume(t *testing.T, cfg Config) (*Sim, *machine) {
	t.Helper()
	cfg.Nodes = 3
	s := New(cfg)
	sql := Service("sql", 1, "10.77.9.12")
	sql.Safety, sql.Volumes = cluster.SafetyStorage, []cluster.Volume{{Name: "data", Disk: "lun1"}}
	s.Deploy(sql)
	if !s.Until(20*time.Second, func() bool { return len(s.Missing()) == 0 && s.san.acked() > 0 }) {
		t.Fatalf("it did not start: %v\n%s", s.Missing(), strings.Join(s.Log, "\n"))
	}
	return s, s.writer()
}

// writer is the node that has the claim of sql now.
func (s *Sim) writer() *machine {
	for _, in := range s.Ledger.State().Instances {
		if in.Service == "sql" {
			return s.machine(in.Node)
		}
	}
	return nil
}

// TestStorageFaults plays faults of the SAN, by their numbers in the catalogue.
func TestStorageFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(s *Sim, owner string)
		moves bool // to another node; else it stays or comes back there
		calm  bool // nothing is claimed anew
	}{
		"14 all cluster links down":       {fault: func(s *Sim, o string) { s.Partition(o) }, moves: true},
		"24 path lost and restored":       {fault: func(s *Sim, o string) { s.Path(o, "lun1", false); s.Run(time.Second); s.Path(o, "lun1", true) }, calm: true},
		"25 all paths of one node":        {fault: func(s *Sim, o string) { s.Path(o, "lun1", false) }, moves: true},
		"27 reset with APTPL":             {fault: func(s *Sim, o string) { _ = s.Target("lun1", "reset") }, calm: true},
		"28 reset without APTPL":          {fault: func(s *Sim, o string) { _ = s.Target("lun1", "reset without aptpl") }},
		"29 slow":                         {fault: func(s *Sim, o string) { _ = s.Target("lun1", "slow") }, calm: true},
		"30 held write, then a power cut": {fault: func(s *Sim, o string) { _ = s.Target("lun1", "slow"); s.Run(time.Second); s.Partition(o) }, moves: true},
		"32 a foreign host registers":     {fault: func(s *Sim, o string) { _ = s.Target("lun1", "foreign") }, calm: true},
		"26 lost everywhere, returns": {fault: func(s *Sim, o string) {
			_ = s.Target("lun1", "gone")
			s.Run(20 * time.Second)
			_ = s.Target("lun1", "ok")
		}},
	} {
		s, owner := withVolume(t, Config{Seed: 3})
		before := s.Ledger.State().Instances[0].ID
		c.fault(s, owner.name)
		s.Run(10 * time.Second)
		acked := s.san.acked()
		s.Run(4 * time.Second)
		ran := len(s.Ledger.State().Instances) == 1 && s.writer() != nil
		if !ran || s.san.acked() == acked || len(s.Violations) > 0 {
			t.Errorf("%s: writes %d after %d, violations %v\n%s", name, s.san.acked(), acked, s.Violations, strings.Join(s.Log[max(0, len(s.Log)-40):], "\n"))
			continue
		}
		if got := s.writer() != owner; c.moves && !got {
			t.Errorf("%s: got it still on %s, want it elsewhere", name, owner.name)
		}
		if got := s.Ledger.State().Instances[0].ID == before; got != c.calm {
			t.Errorf("%s: got the same claim %v, want %v", name, got, c.calm)
		}
		for _, k := range s.san.disks["lun1"].read() {
			if k.Node == foreign {
				t.Errorf("%s: the stranger's key is still there", name)
			}
		}
	}
}

// TestBrokenTargetIsSeen: a disk that does not abort what a preempted node had queued lets old writes land
// upon new ones. The checker that does not see it sees nothing.
func TestBrokenTargetIsSeen(t *testing.T) {
	for _, broken := range []bool{false, true} {
		found := 0
		for seed := range uint64(6) {
			s, owner := withVolume(t, Config{Seed: seed, noAbort: broken})
			if err := s.Target("lun1", "slow"); err != nil {
				t.Fatal(err)
			}
			s.Run(time.Second)
			s.san.disks["lun1"].slow = 20 * time.Second // what comes now is held
			s.Run(time.Second)
			s.san.disks["lun1"].slow = 0
			s.Partition(owner.name)
			s.Run(30 * time.Second)
			found += len(s.Violations)
		}
		if (found > 0) != broken {
			t.Errorf("a target that does not abort %v: got %d violations", broken, found)
		}
	}
}
