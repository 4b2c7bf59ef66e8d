package owners

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	addr  = netip.MustParseAddr("10.77.9.10")
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// play notes answers written as "ms node kind" and returns what was found, in the same short form. The last
// line may be "ms look".
func play(t *testing.T, script string) string {
	t.Helper()
	b := NewBook(DefaultLimits())
	var out []string
	for line := range strings.Lines(strings.TrimSpace(script)) {
		var at int
		var node, kind string
		n, _ := fmt.Sscan(line, &at, &node, &kind)
		now := start.Add(time.Duration(at) * time.Millisecond)
		var h *Handover
		var found []Violation
		switch {
		case n == 3:
			h, found = b.Note(Answer{Time: now, Node: node, Addr: addr, Kind: Kind(kind)})
		case n == 2 && node == "look":
			found = b.Expire(now)
		default:
			t.Fatalf("line %q of the script", line)
		}
		for _, v := range found {
			out = append(out, fmt.Sprintf("%s of %s over %s after %g ms", v.Fault, v.Node, v.Owner, v.LateMs))
		}
		if h != nil {
			out = append(out, fmt.Sprintf("%s to %s, dark %g ms", h.From, h.To, h.DarkMs))
		}
	}
	return strings.Join(out, "\n")
}

func TestBook(t *testing.T) {
	tests := []struct{ name, script, want string }{
		{"one owner", `
			0 n1 announcement
			50 n1 announcement
			60 n1 syn-ack`, ` to n1, dark 0 ms`},
		{"honest takeover", `
			0 n1 data
			950 n2 announcement
			960 n2 syn-ack`, ` to n1, dark 0 ms
n1 to n2, dark 950 ms`},
		{"a new owner that answers before it announces, and never does", `
			0 n1 data
			950 n2 arp
			9000 look`, ` to n1, dark 0 ms
n1 to n2, dark 950 ms`},
		{"honest way back", `
			0 n1 data
			1000 n2 announcement
			5000 n1 arp
			5005 n1 announcement
			5006 n1 announcement
			5055 n1 announcement
			20000 look`, ` to n1, dark 0 ms
n1 to n2, dark 1000 ms
n2 to n1, dark 4000 ms`},
		{"both answer", `
			0 n1 data
			10 n2 data
			20 n1 data
			30 n2 data
			40 n1 data`, ` to n1, dark 0 ms
n1 to n2, dark 10 ms
overlap of n1 over n2 after 10 ms`},
		{"one late frame", `
			0 n1 data
			1000 n2 announcement
			1001 n1 reset`, ` to n1, dark 0 ms
n1 to n2, dark 1000 ms
overlap of n1 over n2 after 1 ms`},
		{"wakes up and goes on where it was", `
			0 n1 data
			1000 n2 announcement
			3000 n1 data
			3010 n1 data
			8000 look`, ` to n1, dark 0 ms
n1 to n2, dark 1000 ms
n2 to n1, dark 2000 ms
return of n1 over n2 after 2000 ms`},
		{"wakes up and announces once, in both forms, as it does from time to time", `
			0 n1 data
			1000 n2 announcement
			3000 n1 announcement
			3001 n1 announcement
			8000 look`, ` to n1, dark 0 ms
n1 to n2, dark 1000 ms
n2 to n1, dark 2000 ms
return of n1 over n2 after 2000 ms`},
		{"wakes up as if it were the owner, and the owner is still asked", `
			0 n1 data
			1000 n2 announcement
			3000 n1 announcement
			3050 n1 announcement
			3060 n2 data`, ` to n1, dark 0 ms
n1 to n2, dark 1000 ms
n2 to n1, dark 2000 ms
overlap of n2 over n1 after 60 ms`},
		{"both announce in turns and nobody asks", `
			0 n1 announcement
			5000 n2 announcement
			10000 n1 announcement
			15000 n2 announcement
			20000 look`, ` to n1, dark 0 ms
n1 to n2, dark 5000 ms
n2 to n1, dark 5000 ms
return of n1 over n2 after 5000 ms
n1 to n2, dark 5000 ms
return of n2 over n1 after 5000 ms`},
		{"the third is no double of the first", `
			0 n1 data
			900 n2 data
			1000 n3 data`, ` to n1, dark 0 ms
n1 to n2, dark 900 ms
n2 to n3, dark 100 ms`},
		{"counted anew in each ownership", `
			0 n1 data
			10 n2 data
			20 n1 data
			30 n3 data
			40 n2 data
			50 n1 data`, ` to n1, dark 0 ms
n1 to n2, dark 10 ms
overlap of n1 over n2 after 10 ms
n2 to n3, dark 20 ms
overlap of n2 over n3 after 10 ms
overlap of n1 over n3 after 40 ms`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := play(t, tt.script); strings.TrimSpace(got) != strings.TrimSpace(tt.want) {
				t.Fatalf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// Owners that follow each other as the protocol has it are never accused, whatever they answer with.
func TestHonestOwnersAreNotAccused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := NewBook(DefaultLimits()), start
		note := func(node string, k Kind) {
			if _, found := b.Note(Answer{Time: now, Node: node, Addr: addr, Kind: k}); len(found) > 0 {
				t.Fatalf("accused: %+v", found)
			}
		}
		for range rapid.IntRange(1, 12).Draw(t, "owners") {
			node := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")
			now = now.Add(time.Duration(rapid.IntRange(500, 30000).Draw(t, "dark")) * time.Millisecond)
			note(node, rapid.SampledFrom([]Kind{Announcement, ARP, SynAck}).Draw(t, "first"))
			for _, at := range []int{1, 50, 200, 750} { // as agent/balance announces
				now = now.Add(time.Duration(at) * time.Millisecond)
				note(node, Announcement)
				note(node, rapid.SampledFrom([]Kind{Announcement, Data, Packet}).Draw(t, "then"))
			}
		}
		if found := b.Expire(now.Add(time.Minute)); len(found) > 0 {
			t.Fatalf("accused in the end: %+v", found)
		}
	})
}

// A machine that answers within the limit after it was succeeded is always found, whatever else happens.
func TestEveryOverlapIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := NewBook(DefaultLimits()), start
		owner, doubles := "", map[string]bool{}
		ended, want := map[string]time.Time{}, 0
		for range rapid.IntRange(1, 60).Draw(t, "answers") {
			now = now.Add(time.Duration(rapid.IntRange(0, 700).Draw(t, "pause")) * time.Millisecond)
			node := rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "node")
			// Twice announced at once is what satisfies the other rule; here it is the overlap that is tried.
			_, _ = b.Note(Answer{Time: now, Node: node, Addr: addr, Kind: Announcement})
			if node == owner {
				continue
			}
			if was, before := ended[node]; before && now.Sub(was) < DefaultLimits().Overlap {
				if !doubles[node] {
					want++
				}
				doubles[node] = true
				continue
			}
			if owner != "" {
				ended[owner] = now
			}
			owner = node
			clear(doubles)
		}
		got := 0
		for _, v := range b.violations {
			if v.Fault == Overlap {
				got++
			}
		}
		if got != want {
			t.Fatalf("got %d overlaps, want %d", got, want)
		}
	})
}
