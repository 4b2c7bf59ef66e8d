package sim

import (
	"math/rand/v2"
	"testing"

	"github.com/skein-os/skein/agent/takeover"
)

// storageMutant breaks the protocol of reserved volumes on purpose.
type storageMutant struct {
	noVerify       bool // drop step 3
	verifyByRead   bool // a read of an own copy, which may be old
	registerBefore bool // register before the claim is committed
}

// playStorage lets nodes claim one volume in turn, each pausing between any two steps for as long as the
// dice say. It returns what the target saw.
func playStorage(seed uint64, mutant storageMutant) *target {
	rng := rand.New(rand.NewPCG(seed, 2))
	claims := map[takeover.Key]bool{}
	var owner takeover.Key
	var copies [10]takeover.Key // each node's copy of owner
	var tk [10]*takeover.Storage
	var key [10]takeover.Key
	var attention [10]bool
	t := &target{writer: map[uint64]uint8{}, committed: func(k takeover.Key) bool { return claims[k] }}
	nodes := 2 + rng.IntN(4)
	var paused [10]int // until which step
	for step := range 300 {
		n := uint8(1 + rng.IntN(nodes))
		switch dice := rng.IntN(40); {
		case dice == 0: // a claim, whatever the others do; of the same node: a new boot, a new session
			t.abort(n)
			k := takeover.Key{Node: n, Epoch: owner.Epoch + 1}
			if mutant.registerBefore {
				t.register(k)
			}
			owner, claims[k], copies[n] = k, true, k
			s := takeover.NewStorage(k)
			tk[n], key[n], attention[n] = &s, k, false
			if rng.IntN(3) == 0 {
				paused[n] = step + rng.IntN(100)
			}
		case dice == 1 && rng.IntN(2) == 0:
			t.reset()
			for i, s := range tk {
				if s != nil { // who has not begun has no session that could be told
					op, _ := s.Next()
					attention[i] = op != takeover.RegisterKey
				}
			}
		case dice == 2:
			copies[n] = owner
		case dice == 3:
			paused[n] = step + rng.IntN(100)
		case dice < 10:
			t.execute()
		case tk[n] != nil && step >= paused[n]:
			s := tk[n]
			if attention[n] {
				attention[n] = false
				s.Attention()
			}
			switch op, victim := s.Next(); op {
			case takeover.RegisterKey:
				t.register(key[n])
				s.Done(true, nil)
			case takeover.ReserveVolume:
				ok := t.keys[n] == key[n]
				t.reserved = t.reserved || ok
				s.Done(ok, nil)
			case takeover.ReadKeys:
				s.Done(true, t.read())
			case takeover.PreemptAbort:
				s.Done(t.preempt(n, victim), nil)
			case takeover.VerifyClaim:
				ok := owner == key[n]
				if mutant.verifyByRead {
					ok = copies[n] == key[n]
				}
				s.Done(ok || mutant.noVerify, nil)
			case takeover.MayWrite:
				s.Done(t.write(write{node: n, epoch: key[n].Epoch}), nil)
			case takeover.GiveUp:
				if t.keys[n] == key[n] {
					t.keys[n] = takeover.Key{}
				}
				tk[n] = nil
			}
		}
		if t.violation != "" {
			return t
		}
	}
	return t
}

func TestOneWriterAtTheTarget(t *testing.T) {
	acked := 0
	for seed := range uint64(20000) {
		got := playStorage(seed, storageMutant{})
		if got.violation != "" {
			t.Fatalf("seed %d: %s", seed, got.violation)
		}
		acked += got.acked
	}
	if acked < 20000 {
		t.Errorf("got %d acknowledged writes in 20000 histories: they prove nothing", acked)
	}
}

func TestBrokenStorageProtocolsAreCaught(t *testing.T) {
	for name, m := range map[string]storageMutant{
		"no verify write":             {noVerify: true},
		"read instead of write":       {verifyByRead: true},
		"registered before the claim": {registerBefore: true},
	} {
		caught := ""
		seed := uint64(0)
		for ; seed < 20000 && caught == ""; seed++ {
			caught = playStorage(seed, m).violation
		}
		if caught == "" {
			t.Errorf("%s: not caught in %d seeds", name, seed)
			continue
		}
		t.Logf("%s: caught after %d seeds: %s", name, seed, caught)
	}
}
