package writers

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func FuzzParse(f *testing.F) {
	for _, six := range []bool{false, true} {
		w := newWire(f)
		w.ipv6 = six
		w.frame = func(_ string, _ int, frame []byte) {
			f.Add(frame)
			f.Add(append(append(append([]byte{}, frame[:12]...), 0x81, 0, 0, 5), frame[12:]...))
		}
		w.login("n1", 0).written(1, statusGood)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, ok := Parse(frame)
		if ok && (s.Server.Port() != Port || s.Client.Port() == Port || !s.Client.Addr().IsValid() || len(s.Payload) > len(frame)-54) {
			t.Fatalf("got %+v", s)
		}
	})
}

// FuzzStream feeds whatever a stranger may put into both directions of a connection, in segments that jump to and
// fro, and checks that the judge neither fails nor keeps more than it may.
func FuzzStream(f *testing.F) {
	// The seeds are what a session sends, as steps.
	w := newWire(f)
	var seed []byte
	w.frame = func(_ string, _ int, frame []byte) {
		if s, _ := Parse(frame); len(s.Payload) > 0 {
			flags := byte(0)
			if s.FromServer {
				flags = 1
			}
			seed = append(seed, flags, 0, byte(len(s.Payload)>>8), byte(len(s.Payload)))
			seed = append(seed, s.Payload...)
		}
	}
	a := w.login("n1", 0)
	a.claim(1, keyA, 0)
	a.claim(1, keyB, keyA)
	a.written(1, statusGood)
	f.Add(seed, true)
	f.Add(seed, false)
	f.Add([]byte{2, 200, 0, 3, 1, 2, 3, 4, 0, 9, 1, 1}, true)
	f.Fuzz(func(t *testing.T, steps []byte, syn bool) {
		j := NewJudge(DefaultLimits())
		seq := [2]uint32{0xfffffff0, 0x7ffffff0}
		c := w.connect("n1", 0)
		now := start
		if syn {
			j.Segment(now, 0, "n1", &Segment{Client: c.client, Server: c.server, Seq: seq[0] - 1, Flags: flagSYN})
			j.Segment(now, 0, "san", &Segment{Client: c.client, Server: c.server, FromServer: true, Seq: seq[1] - 1, Ack: seq[0], Flags: flagSYN | flagACK})
		}
		// A step: which direction and what to do; by how much the sequence jumps; how much payload follows.
		for len(steps) >= 4 {
			do, jump, n := steps[0], int8(steps[1]), min(int(binary.BigEndian.Uint16(steps[2:])), len(steps)-4)
			payload := steps[4 : 4+n]
			steps = steps[4+n:]
			d := int(do & 1)
			at := seq[d] + uint32(int32(jump)*int32(1+do>>3))
			now = now.Add(time.Millisecond)
			s := &Segment{Client: c.client, Server: c.server, FromServer: d == 1, Seq: at, Ack: seq[1-d], Flags: flagACK, Payload: payload}
			if do&2 != 0 {
				s.Ack += uint32(do) << 8
			}
			if do&4 != 0 {
				s.Flags = do
			}
			port := []string{"n1", "san"}[d]
			j.Segment(now, 0, port, s)
			seq[d] = at + uint32(n)
		}
		r := j.Report([]uint64{0})
		if len(j.conns) > maxConnections || len(j.luns) > maxLUNs || len(j.names) > maxNames {
			t.Fatalf("more is kept than there is room for: %+v", r)
		}
		for _, c := range j.conns {
			for _, s := range []*stream{&c.toTarget.stream, &c.toNode.stream} {
				held := 0
				for _, h := range s.held {
					held += len(h.data)
				}
				if held != s.bytes || held > maxHeld {
					t.Fatalf("%d bytes are held, counted as %d", held, s.bytes)
				}
				if p := &s.pdus; p.n >= headerBytes || p.pre < 0 || p.want < 0 || p.after < 0 || p.trust > trusted || p.at != s.next && s.known {
					t.Fatalf("parser in no state: %+v, stream at %d", p, s.next)
				}
			}
			if len(c.pending) > maxPending || len(c.text[0])+len(c.text[1]) > 2*maxText {
				t.Fatalf("%d commands, %d bytes of text", len(c.pending), len(c.text[0])+len(c.text[1]))
			}
		}
		if r.Verdict == Clean && (r.Writes == 0 || r.Unjudged > 0) {
			t.Fatalf("called clean: %+v", r)
		}
	})
}

// play does random honest things: nodes take a disk from each other and write while they have it; who has lost it
// is refused.
func play(t *rapid.T, w *wire, disturb func(*session)) (nodes []*session, owner int) {
	nodes = []*session{w.login("n1", 0), w.login("n2", 1), w.login("n3", 0)}
	owner = -1
	var key uint64
	for epoch := range rapid.IntRange(1, 8).Draw(t, "epochs") {
		next := rapid.IntRange(0, 2).Draw(t, "owner")
		if next == owner {
			nodes[owner].written(1, statusGood)
			continue
		}
		old := key
		key = uint64(epoch+1)<<8 | uint64(next+1)
		nodes[next].claim(1, key, old)
		owner = next
		for range rapid.IntRange(0, 6).Draw(t, "writes") {
			i := rapid.IntRange(0, 2).Draw(t, "writer")
			disturb(nodes[i])
			if i == owner {
				nodes[i].written(1, statusGood)
			} else {
				nodes[i].written(1, statusConflict)
			}
		}
	}
	return nodes, owner
}

func TestTheHonestAreNotAccused(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWire(t)
		play(rt, w, func(*session) {})
		if r := w.judge.Report(nil); r.Verdict != Clean && (r.Verdict != Nothing || r.Writes > 0) {
			rt.Fatalf("got %s\n%s", r.Verdict, brief(r))
		}
	})
}

// Whatever the judge misses, the honest are not accused with certainty.
func TestTheHonestAreNotAccusedInTheDark(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWire(t)
		lossy := rapid.IntRange(1, 20).Draw(rt, "one in")
		seed := rapid.Uint64().Draw(rt, "seed")
		rnd := rand.New(rand.NewPCG(seed, seed))
		w.frame = func(port string, lan int, frame []byte) {
			if rnd.IntN(lossy+1) != 0 {
				w.judge.Frame(w.now, lan, port, frame)
			}
		}
		play(rt, w, func(*session) {})
		if r := w.judge.Report(nil); r.TwoWriters > 0 {
			rt.Fatalf("accused: %s", brief(r))
		}
	})
}

func TestEverySecondWriterIsFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWire(t)
		nodes, owner := play(rt, w, func(*session) {})
		if owner < 0 {
			return
		}
		for i, s := range nodes {
			if d := w.judge.Report(nil).Disks[0]; i == owner || len(d.Fenced) == 0 {
				continue
			}
			before := w.judge.Report(nil)
			s.written(1, statusGood)
			after := w.judge.Report(nil)
			if after.TwoWriters == before.TwoWriters && after.Overlapping == before.Overlapping {
				rt.Fatalf("a write of %s was not found: %s", s.node, brief(after))
			}
			return
		}
	})
}

// BenchmarkJudge is the judge's work for writes of 64 KiB and their answers, in bytes of frames.
func BenchmarkJudge(b *testing.B) {
	benchmark(b, func(s *session) { s.status(s.write(1, 64<<10), statusGood) })
}

// BenchmarkSmall is for writes of 512 bytes, the worst case for each byte.
func BenchmarkSmall(b *testing.B) {
	benchmark(b, func(s *session) { s.status(s.write(1, 512), statusGood) })
}

// BenchmarkIgnored is what frames cost that are not of a SAN.
func BenchmarkIgnored(b *testing.B) {
	w := newWire(b)
	s := w.connect("n1", 0)
	f := w.packet(s.client, s.client, 1, 1, flagACK, make([]byte, mss))
	watch := NewWatch()
	tap := watch.Tap(0)
	b.SetBytes(int64(len(f)))
	for b.Loop() {
		tap("n1", f)
	}
}

func benchmark(b *testing.B, do func(*session)) {
	type frame struct {
		port string
		data []byte
	}
	var frames []frame
	w := newWire(b)
	s := w.login("n1", 0)
	w.frame = func(port string, _ int, f []byte) { frames = append(frames, frame{port, f}) }
	s.claim(1, keyA, 0)
	first := len(frames)
	for range 64 {
		do(s)
	}
	watch := NewWatch()
	tap := watch.Tap(0)
	w2 := newWire(b)
	w2.frame = func(port string, _ int, f []byte) { tap(port, f) }
	w2.login("n1", 0)
	for _, f := range frames[:first] {
		tap(f.port, f.data)
	}
	frames = frames[first:]
	bytes := 0
	for _, f := range frames {
		bytes += len(f.data)
	}
	const tcp = 14 + 20
	shift := s.seq - seqOf(frames[0].data)
	back := s.ack - ackOf(frames[0].data)
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	for b.Loop() {
		for _, f := range frames {
			tap(f.port, f.data)
		}
		b.StopTimer()
		for _, f := range frames { // the next round goes on where this one ended
			seq, ack := shift, back
			if f.port == "san" {
				seq, ack = back, shift
			}
			add(f.data[tcp+4:], seq)
			add(f.data[tcp+8:], ack)
		}
		b.StartTimer()
	}
	b.StopTimer()
	if r := watch.Report(nil); r.Disks[0].Writers[0].Writes < 64 || r.Verdict != Clean {
		b.Fatalf("judged %d writes: %s", r.Disks[0].Writers[0].Writes, r.Verdict)
	}
}

func seqOf(f []byte) uint32 { return binary.BigEndian.Uint32(f[14+20+4:]) }
func ackOf(f []byte) uint32 { return binary.BigEndian.Uint32(f[14+20+8:]) }

func add(b []byte, n uint32) { binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+n) }
