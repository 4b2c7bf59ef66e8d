package pathmtu

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWire(t *testing.T) {
	key := deriveKey([]byte("a key of the members"))
	for _, m := range []message{{kindAsk, 1500, 7}, {kindAsk, smallest, 1 << 60}, {kindHere, 9000, 9}} {
		b := m.encode(key)
		if got, err := decode(key, b); err != nil || got != m {
			t.Errorf("got %+v, %v, want %+v", got, err, m)
		}
		if m.kind == kindAsk && len(b)+ipHeaders != m.size {
			t.Errorf("got a packet of %d bytes, want %d", len(b)+ipHeaders, m.size)
		}
		if _, err := decode(deriveKey([]byte("another")), b); err == nil {
			t.Error("taken with another key")
		}
		for _, wrong := range [][]byte{b[:len(b)-1], append(bytes.Clone(b), 0), nil} {
			if _, err := decode(key, wrong); err == nil {
				t.Errorf("%d bytes of %d were taken", len(wrong), len(b))
			}
		}
		b[9] ^= 1
		if _, err := decode(key, b); err == nil {
			t.Error("taken with a wrong bit")
		}
	}
}

// play runs a search on a path that lets packets of up to limit bytes through, and loses some. It returns how many
// packets were sent until it was over.
func play(s *Search, now *time.Duration, full, limit int, lose func() bool) (sent int) {
	end := *now + 2*Every
	over := false
	for ; *now < end && !over; *now += 10 * time.Millisecond {
		if size, send := s.Next(*now, full); send {
			sent++
			if size <= limit && !lose() {
				s.Answer(*now, size)
			}
		}
		over = sent > 0 && s.size == 0
	}
	return sent
}

// TestSearch: whatever the limit, it is found to the byte; a path that is as it should be costs one packet, one that
// lets nothing through is not judged.
func TestSearch(t *testing.T) {
	never := func() bool { return false }
	rapid.Check(t, func(t *rapid.T) {
		full := rapid.IntRange(smallest, 9216).Draw(t, "MTU")
		limit := rapid.IntRange(0, 10000).Draw(t, "limit")
		var s Search
		now := time.Duration(0)
		sent := play(&s, &now, full, limit, never)
		want := min(full, limit)
		if limit < smallest {
			want = 0
		}
		if s.Largest != want || want != 0 && s.Of != full {
			t.Fatalf("got %d of %d, want %d of %d", s.Largest, s.Of, want, full)
		}
		if limit >= full && sent != 1 || sent > 14*(tries+1) {
			t.Fatalf("it took %d packets", sent)
		}
	})
}

// TestSearchStandsLoss: packets that get lost now and then are no limit.
func TestSearchStandsLoss(t *testing.T) {
	var s Search
	now := time.Duration(0)
	n := 0
	play(&s, &now, 1500, 1500, func() bool { n++; return n <= tries-1 })
	if s.Largest != 1500 {
		t.Errorf("got %d, want 1500", s.Largest)
	}
}

// TestLimitIsConfirmed: a limit is told when it was found twice, and no more when it is gone.
func TestLimitIsConfirmed(t *testing.T) {
	never := func() bool { return false }
	var s Search
	now := time.Duration(0)
	for i, step := range []struct {
		limit int
		want  bool
	}{{1500, false}, {1500, false}, {1400, false}, {1400, true}, {1400, true}, {1300, false}, {1300, true}, {1500, false}, {0, false}, {0, false}} {
		play(&s, &now, 1500, step.limit, never)
		if got, ok := s.Limit(); ok != step.want || ok && got != step.limit {
			t.Errorf("search %d: got %d %v, want %d %v", i, got, ok, step.limit, step.want)
		}
	}
}

// TestSearchFollows: a limit that comes, goes, and a new MTU are found by the next probes.
func TestSearchFollows(t *testing.T) {
	never := func() bool { return false }
	var s Search
	now := time.Duration(0)
	for i, step := range []struct{ full, limit, want int }{{1500, 1500, 1500}, {1500, 1400, 1400}, {1500, 1500, 1500}, {9000, 1500, 1500}, {9000, 9000, 9000}} {
		before := now
		play(&s, &now, step.full, step.limit, never)
		if s.Largest != step.want || s.Of != step.full {
			t.Errorf("step %d: got %d of %d, want %d of %d", i, s.Largest, s.Of, step.want, step.full)
		}
		if i == 1 && now-before < Every/2 {
			t.Errorf("step %d: probed after %v, want about %v", i, now-before, Every)
		}
	}
}

func FuzzDecode(f *testing.F) {
	key := deriveKey([]byte("key"))
	f.Add(message{kindAsk, 600, 1}.encode(key))
	f.Add(message{kindHere, 600, 1}.encode(key))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := decode(key, b); err == nil && !bytes.Equal(m.encode(key)[:minimum], b[:minimum]) {
			t.Fatalf("%+v is not what %x says", m, b)
		}
	})
}
