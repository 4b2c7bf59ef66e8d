package pid1

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestGuard plays timelines. The limits are the defaults.
func TestGuard(t *testing.T) {
	const s = time.Second
	type step struct {
		at   time.Duration
		what string // "fed", "stale" (fed, said 10 s ago), "gone" or ""
		want verdict
	}
	for name, steps := range map[string][]step{
		"boot takes long but not too long": {{at: 119 * s, want: feed}, {at: 119 * s, what: "fed", want: feed}, {at: 126 * s, want: feed}},
		"boot never gets well": {{at: 119 * s, want: feed}, {at: 120 * s, want: starve},
			{at: 134 * s, want: starve}, {at: 135 * s, want: force}},
		"boot with a crashing agent gets no more time": {{at: 60 * s, what: "gone", want: feed}, {at: 120 * s, want: starve}},
		"hang": {{at: 10 * s, what: "fed", want: feed}, {at: 17 * s, want: feed}, {at: 18 * s, want: starve},
			{at: 32 * s, want: starve}, {at: 33 * s, want: force}},
		"hang that ends in time": {{at: 10 * s, what: "fed", want: feed}, {at: 20 * s, want: starve},
			{at: 21 * s, what: "fed", want: feed}, {at: 28 * s, want: feed}, {at: 29 * s, want: starve}},
		"restart": {{at: 10 * s, what: "fed", want: feed}, {at: 11 * s, what: "gone", want: feed}, {at: 39 * s, want: feed},
			{at: 39 * s, what: "fed", want: feed}, {at: 47 * s, want: starve}},
		"down for too long": {{at: 10 * s, what: "fed", want: feed}, {at: 11 * s, what: "gone", want: feed}, {at: 40 * s, want: starve}},
		"a crash loop without a feed gets no more time": {{at: 10 * s, what: "fed", want: feed}, {at: 11 * s, what: "gone", want: feed},
			{at: 25 * s, what: "gone", want: feed}, {at: 40 * s, want: starve}},
		"a hung agent that dies stays condemned": {{at: 10 * s, what: "fed", want: feed}, {at: 18 * s, want: starve},
			{at: 19 * s, what: "gone", want: starve}, {at: 33 * s, want: force}},
		"a feed that waited too long counts from when it was said": {{at: 10 * s, what: "fed", want: feed},
			{at: 25 * s, want: starve}, {at: 25 * s, what: "stale", want: starve}, {at: 39 * s, want: starve}, {at: 40 * s, want: force}},
		"a stale feed in good times shortens nothing": {{at: 10 * s, what: "fed", want: feed}, {at: 15 * s, what: "stale", want: feed},
			{at: 17 * s, want: feed}, {at: 18 * s, want: starve}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGuard(Limits{}.withDefaults(), 0)
			for i, step := range steps {
				switch step.what {
				case "fed":
					g.fed(step.at, step.at)
				case "stale":
					g.fed(step.at-10*s, step.at)
				case "gone":
					g.gone()
				}
				if got := g.decide(step.at); got != step.want {
					t.Fatalf("step %d, %s %s: got %s, want %s", i, step.at, step.what, got, step.want)
				}
			}
		})
	}
}

// TestGuardNeverFeedsTheDead: whatever happens, nothing is fed later than the longest limit after the last
// true sign of life, and always within the shortest after one.
func TestGuardNeverFeedsTheDead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{}.withDefaults()
		g := newGuard(l, 0)
		now, life, everFed := time.Duration(0), time.Duration(0), false
		fresh := time.Duration(0) // the last sign of life that arrived in time to be believed
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond
			switch rapid.IntRange(0, 3).Draw(t, "event") {
			case 0:
				at := now - time.Duration(rapid.IntRange(-5000, 20_000).Draw(t, "age"))*time.Millisecond
				at = max(at, 0)
				g.fed(at, now)
				life, everFed = max(life, min(at, now)), true
				if now-at <= l.Feed {
					fresh = max(fresh, min(at, now))
				}
			case 1:
				g.gone()
			}
			limit := l.Boot
			if everFed {
				limit = max(l.Feed, l.Restart)
			}
			got := g.decide(now)
			if got == feed && now-life > limit {
				t.Fatalf("fed at %s, %s after the last sign of life", now, now-life)
			}
			if got != feed && everFed && now-life < l.Feed && g.trust != starving {
				t.Fatalf("%s at %s, only %s after the last sign of life", got, now, now-life)
			}
			if got == force && now-fresh < l.Watchdog+l.Bite {
				t.Fatalf("forced at %s, only %s after the last sign of life", now, now-fresh)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	var b backoff
	var got []time.Duration
	for _, ran := range []time.Duration{0, 0, 0, 0, 0, 0, 0, 0, 0, 59 * time.Second, time.Minute, 0} {
		got = append(got, b.next(ran)/time.Millisecond)
	}
	want := []time.Duration{0, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000, 0, 100}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %d ms, want %d ms", got, want)
		}
	}
}
