package job

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"pgregory.net/rapid"
)

func pow(x, y float64) float64 { return math.Pow(x, y) }

// Whatever dies: every index is recorded exactly once, and nothing that may not runs twice at the same time.
func TestEveryIndexOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		spec := simSpec(rapid.IntRange(1, 400).Draw(rt, "tasks"))
		spec.Idempotent = rapid.Bool().Draw(rt, "idempotent")
		spec.Retries = rapid.IntRange(0, 2).Draw(rt, "retries")
		if rapid.Bool().Draw(rt, "limited") {
			spec.Limit = rapid.IntRange(1, 6).Draw(rt, "limit")
		}
		s := newSim(t, spec, rapid.IntRange(1, 5).Draw(rt, "nodes"), rapid.IntRange(1, 4).Draw(rt, "slots"))
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		s.took = func(int32) time.Duration {
			if r.IntN(40) == 0 {
				return 20 * time.Second
			}
			return time.Duration(r.ExpFloat64() * float64(50*time.Millisecond))
		}
		bad := map[int32]bool{}
		for p := range int32(spec.Indices.Len()) {
			bad[p] = r.IntN(20) == 0
		}
		s.fails = func(p int32, try int) bool { return bad[p] || r.IntN(30) == 0 }
		faults := rapid.IntRange(0, 12).Draw(rt, "faults")
		s.run(time.Hour, func() {
			for _, n := range s.nodes {
				if n.dead && r.IntN(20) == 0 {
					s.reboot(n) // it is its Hello that proves the life before dead
				}
			}
			if faults == 0 || r.IntN(10) > 0 {
				return
			}
			faults--
			n := s.nodes[r.IntN(len(s.nodes))]
			switch r.IntN(6) {
			case 0:
				s.die(n)
			case 1:
				s.die(n)
				s.table.Dead(n.name, Lost)
				if r.IntN(2) == 0 {
					s.table.Dead(n.name, Tethered)
				}
			case 2:
				s.coordinate()
			case 3:
				s.flush(true)
			case 4:
				if !n.dead {
					s.step(n, true)
				}
			case 5: // given up by mistake, and so made to forget: it comes back as the same life only after it has killed all
				if !n.dead {
					s.kill(n, func(*simLease) bool { return true })
					n.reports = nil
					s.table.Dead(n.name, Tethered)
				}
			}
		})
		s.check()
		if spec.Limit > 0 && !spec.Idempotent && s.most > spec.Limit {
			t.Fatalf("%d tasks ran at once, the limit is %d", s.most, spec.Limit)
		}
	})
}

func TestRetriesAndFailures(t *testing.T) {
	spec := simSpec(50)
	spec.Retries = 2
	s := newSim(t, spec, 3, 2)
	s.fails = func(p int32, try int) bool { return p == 7 || p == 20 && try < 3 }
	s.run(time.Minute, nil)
	for _, o := range s.check() {
		for p := o.From; p < o.To; p++ {
			wantOK, wantTries := true, 0
			if p == 7 {
				wantOK, wantTries = false, 3
			}
			if p == 20 {
				wantTries = 3
			}
			if o.OK() != wantOK || o.Tries != wantTries {
				t.Errorf("task %d: got ok %v after %d tries, want %v after %d", p, o.OK(), o.Tries, wantOK, wantTries)
			}
		}
	}
	if j, _, _ := s.table.Job(simJob); j.State != Failed || j.OK != 49 || j.Bad != 1 {
		t.Errorf("got %s with %d ok, %d failed; want failed with 49 and 1", j.State, j.OK, j.Bad)
	}
}

// A task that fells its node is given out alone after the second time and given up after the fourth: the others are done.
func TestTaskThatFellsNodes(t *testing.T) {
	s := newSim(t, simSpec(60), 3, 2)
	s.took = func(int32) time.Duration { return 10 * time.Millisecond }
	s.run(time.Hour, func() {
		for _, n := range s.nodes {
			if n.dead {
				s.reboot(n)
				continue
			}
			for _, b := range n.busy {
				if b.pos == 30 {
					s.die(n)
					break
				}
			}
		}
	})
	for _, o := range s.check() {
		if felled := o.From <= 30 && 30 < o.To; felled && o.End != NodeLost {
			t.Errorf("task 30: got %v, want nodes lost", o)
		} else if !felled && !o.OK() {
			t.Errorf("%v failed beside it", o)
		}
	}
	if s.begun[30] != mostLost {
		t.Errorf("task 30 was begun %d times, want %d", s.begun[30], mostLost)
	}
}

// Skewed durations: the whole takes at most a tenth longer than it must.
func TestSkewedDurations(t *testing.T) {
	seeds := uint64(10)
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		for _, least := range []time.Duration{2 * time.Millisecond, 50 * time.Millisecond, time.Second} {
			r := rand.New(rand.NewPCG(seed, 7))
			const tasks, nodes, slots = 10_000, 8, 4
			took := pareto(r, tasks, least, 50*least)
			s := newSim(t, simSpec(tasks), nodes, slots)
			s.took = func(p int32) time.Duration { return took[p] }
			s.run(100*time.Hour, nil)
			s.check()
			var sum, longest time.Duration
			for _, d := range took {
				sum, longest = sum+d, max(longest, d)
			}
			ideal := max(sum/(nodes*slots), longest)
			if ratio := float64(s.now) / float64(ideal); ratio > 1.10 {
				t.Errorf("seed %d, tasks of %v and more: %v, ideal is %v: %.2f times", seed, least, s.now.Round(time.Millisecond), ideal.Round(time.Millisecond), ratio)
			} else if seed == 0 {
				t.Logf("tasks of %v and more: %v, ideal is %v: %.3f times", least, s.now.Round(time.Millisecond), ideal.Round(time.Millisecond), ratio)
			}
		}
	}
}

// A node that has become slow holds an idempotent job up no longer than a copy takes.
func TestStragglerIsCopied(t *testing.T) {
	for _, idempotent := range []bool{true, false} {
		spec := simSpec(400)
		spec.Idempotent = idempotent
		s := newSim(t, spec, 4, 2)
		s.took = func(p int32) time.Duration {
			if p == 250 && s.begun[p] == 0 {
				return 10 * time.Minute
			}
			return 50 * time.Millisecond
		}
		s.run(time.Hour, nil)
		s.check()
		if got := s.now < 30*time.Second; got != idempotent {
			t.Errorf("idempotent %v: it took %v", idempotent, s.now)
		}
	}
}

// A new coordinator gives nothing out before it has heard of all who may hold something.
func TestRollCall(t *testing.T) {
	s := newSim(t, simSpec(100), 2, 1)
	s.took = func(int32) time.Duration { return time.Minute }
	for range 2 {
		for _, n := range s.nodes {
			s.step(n, false)
			s.step(n, false)
		}
	}
	s.coordinate()
	n1, n2 := s.nodes[0], s.nodes[1]
	fresh := &simNode{name: "n3", slots: 4}
	s.nodes = append(s.nodes, fresh)
	s.step(n1, false)
	s.step(n1, false)
	s.step(fresh, false)
	if len(fresh.leases) > 0 {
		t.Fatal("a task was given out before n2 was heard")
	}
	if p, _ := s.table.Progress(simJob, s.now); p.Blocked != "waits for word of n2, or proof that nothing runs there any more" {
		t.Errorf("blocked: %q", p.Blocked)
	}
	s.table.Dead("n2", Lost)
	if s.step(fresh, false); len(fresh.leases) > 0 {
		t.Fatal("a task was given out though n2 may run it")
	}
	s.die(n2)
	s.table.Dead("n2", Tethered)
	if s.step(fresh, false); len(fresh.leases) == 0 {
		t.Fatal("nothing was given out though n2 is dead")
	}
}

// A million tasks on a thousand nodes.
func TestMillion(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	writes, memory, submit := million(t)
	t.Logf("%d writes to the ledger, coordinator's memory %.1f MiB, submitted in %v", writes, float64(memory)/(1<<20), submit)
	if writes >= 2000 {
		t.Errorf("%d writes to the ledger, want fewer than 2000", writes)
	}
	if memory > 200<<20 {
		t.Errorf("the coordinator takes %d bytes, want less than 200 MiB", memory)
	}
	if submit > 50*time.Millisecond {
		t.Errorf("to submit took %v, want less than 50 ms", submit)
	}
}

func million(t testing.TB) (writes int, memory uint64, submit time.Duration) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	s := newSim(t, simSpec(1), 1000, 4)
	s.spec = simSpec(1_000_000)
	s.begun, s.running = make([]int, 1_000_000), make([]int, 1_000_000)
	before := heap()
	began := time.Now()
	s.write([]cluster.Put{{Key: KeySpecs + simJob, Value: Job{ID: simJob, Spec: s.spec, State: Running}}}, nil)
	s.coordinate()
	submit = time.Since(began)
	s.took = func(p int32) time.Duration { return 10*time.Millisecond + time.Duration(p%7)*time.Millisecond }
	s.grain = 10 * time.Millisecond
	s.run(time.Hour, nil)
	s.check()
	s.begun, s.running, s.ledger = nil, nil, nil
	s.nodes = nil
	memory = heap() - before
	runtime.KeepAlive(s.table)
	return s.writes, memory, submit
}

func BenchmarkMillion(b *testing.B) {
	for range b.N {
		writes, memory, submit := million(b)
		b.ReportMetric(float64(writes), "writes")
		b.ReportMetric(float64(memory)/(1<<20), "MiB")
		b.ReportMetric(float64(submit.Microseconds()), "µs/submit")
	}
}

func TestIndices(t *testing.T) {
	for _, tc := range []struct {
		text  string
		n     int
		limit int
		last  int64
		err   bool
	}{
		{"1-10000", 10000, 0, 10000, false},
		{"1-10000%50", 10000, 50, 10000, false},
		{"0-100:5,200", 22, 0, 200, false},
		{"0-9:4", 3, 0, 8, false},
		{"7", 1, 0, 7, false},
		{"5-1", 0, 0, 0, true},
		{"1-10,10", 0, 0, 0, true},
		{"1-10%0", 0, 0, 0, true},
		{"", 0, 0, 0, true},
		{"1--3", 0, 0, 0, true},
		{"-1", 0, 0, 0, true},
		{"1:2", 0, 0, 0, true},
		{"1-99999999", 0, 0, 0, true},
		{"1-9223372036854775807", 0, 0, 0, true},
	} {
		x, limit, err := ParseIndices(tc.text)
		if (err != nil) != tc.err {
			t.Errorf("%q: got error %v", tc.text, err)
			continue
		}
		if err == nil && (x.Len() != tc.n || limit != tc.limit || x.At(tc.n-1) != tc.last) {
			t.Errorf("%q: got %d tasks, limit %d, last %d", tc.text, x.Len(), limit, x.At(x.Len()-1))
		}
	}
}

func FuzzIndices(f *testing.F) {
	for _, s := range []string{"1-10000%50", "0-100:5,200", "7", "1-2-3", "%", "1:1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		x, _, err := ParseIndices(text)
		if err != nil {
			return
		}
		again, _, err := ParseIndices(x.String())
		if err != nil || again.Len() != x.Len() {
			t.Fatalf("%q is %q, which reads as %v (%v)", text, x, again, err)
		}
		for _, p := range []int{0, x.Len() / 2, x.Len() - 1} {
			if at, ok := x.Position(x.At(p)); !ok || at != p {
				t.Fatalf("%q: position of %d is %d, want %d", text, x.At(p), at, p)
			}
		}
	})
}

func FuzzDecodeOutcomes(f *testing.F) {
	f.Add([]byte(`{"n":["n1"],"o":[[0,5,0,0,0,1]]}`))
	f.Add([]byte(`{"n":[],"o":[[0,5,0,0,0,1]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := DecodeOutcomes(data)
		if err == nil {
			spec := simSpec(10)
			NewDivider(&spec, list, func() uint64 { return 1 })
		}
	})
}

func TestArgv(t *testing.T) {
	for _, tc := range []struct {
		mapped  bool
		command []string
		want    string
	}{
		{false, []string{"sim", "--seed", "{}"}, "[sim --seed 17]"},
		{false, []string{"true"}, "[true]"},
		{true, []string{"convert", "{}", "out/{/.}.png"}, "[convert in/a.b.raw out/a.b.png]"},
		{true, []string{"wc", "-l"}, "[wc -l in/a.b.raw]"},
		{true, []string{"x", "{.} {/} {//} {#}"}, "[x in/a.b a.b.raw in 17]"},
	} {
		s := Spec{Command: tc.command, Mapped: tc.mapped}
		if got := fmt.Sprint(s.Argv(17, "in/a.b.raw")); got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.command, got, tc.want)
		}
	}
}

func TestParseShare(t *testing.T) {
	for text, want := range map[string]string{
		"photos:/in":        "{ photos /in false }",
		"big/photos:/in:ro": "{big photos /in true }",
		"photos":            "",
		"photos:in":         "",
		":/in":              "",
		"/photos:/in":       "",
		"a/b/c:/in":         "",
		"photos:/in:rw":     "",
	} {
		u, err := ParseShare(text)
		if got := fmt.Sprint(u); err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("%q: got %s, %v; want %q", text, got, err, want)
		}
	}
}
