package writers

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/skein-os/skein/qemu/ethernet"
)

const keyA, keyB, keyC = 0xaaaa_01_0000000001, 0xaaaa_02_0000000002, 0xaaaa_03_0000000003

func TestJudge(t *testing.T) {
	tests := []struct {
		name string
		play func(w *wire)
		want string
	}{
		{"nobody", func(w *wire) {}, "nothing"},
		{"only the cluster disk", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.written(0, statusGood)
			b.written(0, statusGood)
			a.written(0, statusGood)
		}, "nothing"},
		{"reservations, but no write", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
		}, "nothing"},
		{"clean takeover", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a.written(1, statusGood)
			b.claim(1, keyB, keyA)
			b.written(1, statusGood)
		}, "clean"},
		{"late write is refused", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a.written(1, statusGood)
			b.claim(1, keyB, keyA)
			a.written(1, statusConflict)
			b.written(1, statusGood)
		}, "clean"},
		{"late write is taken", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			a.written(1, statusGood)
			a.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 2"},
		{"late write through the other path", func(w *wire) {
			a, a2, b := w.login("n1", 0), w.login("n1", 1), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a2.reserve(1, RegisterIgnore, 0, keyA)
			a2.written(1, statusGood)
			b.claim(1, keyB, keyA)
			a2.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 1"},
		{"two paths of one node", func(w *wire) {
			a, a2 := w.login("n1", 0), w.login("n1", 1)
			a.claim(1, keyA, 0)
			a2.reserve(1, RegisterIgnore, 0, keyA)
			for range 3 {
				a.written(1, statusGood)
				a2.written(1, statusGood)
			}
		}, "clean"},
		{"a node takes its own key away from its other path", func(w *wire) {
			a, a2 := w.login("n1", 0), w.login("n1", 1)
			a.claim(1, keyA, 0)
			a2.claim(1, keyB, keyA)
			a2.written(1, statusGood)
			a.written(1, statusGood)
		}, "clean"},
		{"registered again is no excuse", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			a.reserve(1, RegisterIgnore, 0, keyC)
			a.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 1"},
		{"taken back by preempting", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			b.written(1, statusGood)
			a.claim(1, keyC, keyB)
			a.written(1, statusGood)
			b.written(1, statusConflict)
		}, "clean"},
		{"taken back after it was released", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			b.reserve(1, Release, keyB, 0)
			a.claim(1, keyC, 0)
			a.written(1, statusGood)
		}, "clean"},
		{"the holder unregisters, who was fenced does not get it by that", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			b.reserve(1, Register, keyB, 0)
			a.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 1"},
		{"preempts one who only registered, while a third holds it", func(w *wire) {
			a, b, c := w.login("n1", 0), w.login("n2", 0), w.login("n3", 0)
			c.claim(1, keyC, 0)
			a.reserve(1, RegisterIgnore, 0, keyA)
			b.claim(1, keyB, keyA)
			c.written(1, statusGood)
			a.written(1, statusConflict)
			b.written(1, statusGood)
		}, "suspect\nlun 1: n2 overlaps n3, 1"},
		{"one of two keys is taken", func(w *wire) {
			a, a2, b := w.login("n1", 0), w.login("n1", 1), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a2.reserve(1, RegisterIgnore, 0, keyC)
			b.reserve(1, RegisterIgnore, 0, keyB)
			b.reserve(1, PreemptAbort, keyB, keyC)
			a.written(1, statusGood)
			b.reserve(1, PreemptAbort, keyB, keyA)
			a.written(1, statusConflict)
			b.written(1, statusGood)
		}, "clean"},
		{"on its way when the fence closed", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.reserve(1, RegisterIgnore, 0, keyB)
			tag := a.write(1, 4096)
			b.reserve(1, PreemptAbort, keyB, keyA)
			a.status(tag, statusGood)
		}, "clean"},
		{"waited in a cut wire and came after the fence", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a.late = true
			seq := a.seq
			tag := a.write(1, 512)
			b.claim(1, keyB, keyA)
			w.wait(5000)
			a.toTarget(seq, flagACK, make([]byte, 560)) // again: the judge knows it
			a.acknowledge()
			a.status(tag, statusGood)
		}, "two writers\nlun 1: n1 held write over n2, 1"},
		{"two write without any reservation", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			for range 3 {
				a.written(1, statusGood)
				b.written(1, statusGood)
				b.written(1, statusGood)
			}
		}, "suspect\nlun 1: n2 overlaps n1, 3\nlun 1: n1 overlaps n2, 2"},
		{"writes over one who reserved", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a.written(1, statusGood)
			b.reserve(1, RegisterIgnore, 0, keyB)
			b.written(1, statusGood)
			b.written(1, statusGood)
		}, "suspect\nlun 1: n2 overlaps n1, 2"},
		{"disks are judged one by one", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a.claim(2, keyA, 0)
			b.claim(1, keyB, keyA)
			a.written(2, statusGood)
			b.written(1, statusGood)
			a.written(1, statusConflict)
		}, "clean"},
		{"its way to get the disk back was never answered", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			a.reserve(1, RegisterIgnore, 0, keyC)
			a.ask(1, PreemptAbort, keyC, keyB)
			a.written(1, statusGood)
		}, "suspect\nlun 1: n1 late write over n2, 1\ndoubt: its preempt and abort after the fence was not seen answered"},
		{"a refused preempt gives nothing", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			a.status(a.ask(1, PreemptAbort, keyA, keyB), statusConflict)
			a.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 1"},
		{"parameters come as Data-Out", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.reserve(1, RegisterIgnore, 0, keyB)
			tag := b.command(1, 24, []byte{cdbReserveOut, byte(PreemptAbort), 5, 0, 0, 0, 0, 0, 24, 0}, nil)
			r2t := b.reply(opR2T, 0x80)
			b.answer(r2t)
			p := params(keyB, keyA)
			out := b.header(opDataOut, 0)
			b.send(pdu(out, p[:10]))
			out = b.header(opDataOut, 0x80)
			out[43] = 10
			b.send(pdu(out, p[10:]))
			b.status(tag, statusGood)
			a.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 1"},
		{"closed in order", func(w *wire) {
			a := w.login("n1", 0)
			a.written(1, statusGood)
			a.toNode(a.ack, flagFIN|flagACK, nil)
			a.ack++
			a.toTarget(a.seq, flagFIN|flagACK, nil)
			a.seq++
			a.acknowledge()
			a.toTarget(a.seq, flagACK, nil)
		}, "clean"},
		{"a new connection between the same ports", func(w *wire) {
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			a.write(1, 4096) // never answered: the machine lost its power
			b.claim(1, keyB, keyA)
			a.seq += 12345678
			a.ack += 87654321
			a.shake()
			a.logIn("None")
			a.written(1, statusConflict)
			b.written(1, statusGood)
			a.written(1, statusGood)
		}, "two writers\nlun 1: n1 late write over n2, 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			tt.play(w)
			w.check(tt.want)
		})
		t.Run(tt.name+", IPv6", func(t *testing.T) {
			w := newWire(t)
			w.ipv6 = true
			tt.play(w)
			w.check(tt.want)
		})
	}
}

// guilty is a play that ends with a violation, with a disturbance in the middle that must not hide it nor cast doubt.
func TestStillSeesThrough(t *testing.T) {
	tests := []struct {
		name    string
		disturb func(w *wire, a, b *session, write func())
	}{
		{"segments in the wrong order", func(w *wire, a, b *session, write func()) {
			a.holding, a.late = true, true
			tag := a.write(1, 20000)
			a.holding, a.late = false, false
			slices.Reverse(a.held)
			for _, send := range a.held {
				send()
			}
			a.acknowledge()
			a.status(tag, statusGood)
		}},
		{"every segment twice", func(w *wire, a, b *session, write func()) {
			a.holding = true
			write()
			a.holding = false
			for _, send := range a.held {
				send()
				send()
			}
			for _, send := range a.held {
				send()
			}
		}},
		{"a retransmission that reaches over the end of what is known", func(w *wire, a, b *session, write func()) {
			h := a.header(opNopOut|0x40, 0x80)
			h[19] = 0xff
			a.toTarget(a.seq, flagACK, h[:20])
			a.toTarget(a.seq, flagACK, h)
			a.seq += headerBytes
			write()
		}},
		{"lost data", func(w *wire, a, b *session, write func()) {
			tag := a.command(1, 16384, []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 32, 0}, nil)
			out := pdu(a.header(opDataOut, 0x80), make([]byte, 16384))
			a.late = true
			a.send(out[:2000])
			a.lose = true
			a.send(out[2000:9000])
			a.lose, a.late = false, false
			a.send(out[9000:])
			a.status(tag, statusConflict)
			write()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t)
			a, b := w.login("n1", 0), w.login("n2", 0)
			a.claim(1, keyA, 0)
			b.claim(1, keyB, keyA)
			tt.disturb(w, a, b, func() { a.written(1, statusGood) })
			w.check("two writers\nlun 1: n1 late write over n2, 1")
			if r := w.judge.Report(nil); r.GapCount != 0 || r.Unjudged != 0 {
				t.Errorf("%d gaps, %d bytes not judged, want none", r.GapCount, r.Unjudged)
			}
		})
	}
}

func TestGap(t *testing.T) {
	w := newWire(t)
	a, b := w.login("n1", 0), w.login("n2", 0)
	a.claim(1, keyA, 0)
	b.claim(1, keyB, keyA)
	b.written(1, statusGood)
	w.wait(10)
	a.lose = true
	tag := a.write(1, 20000) // the judge sees nothing of this
	a.lose = false
	a.status(tag, statusConflict)
	if r := w.judge.Report(nil); r.GapCount != 1 || r.Verdict != Partly || !r.Gaps[0].Until.IsZero() {
		t.Fatalf("got %s with gaps %+v, want one that is open", r.Verdict, r.Gaps)
	}
	before := w.judge.Report(nil).Commands
	a.written(1, statusGood) // not judged: boundaries are looked for
	a.written(1, statusGood)
	w.check("partly")
	a.written(1, statusGood)
	a.written(1, statusGood)
	w.check("suspect\nlun 1: n1 late write over n2, 2\ndoubt: the judge missed frames after the fence")
	r := w.judge.Report(nil)
	if r.Commands != before+2 || len(r.Gaps) != 1 || r.Gaps[0].Until.IsZero() || r.Gaps[0].Node != "n1" || r.Gaps[0].Answers || r.Unjudged < 20000 {
		t.Errorf("got %d commands, want %d; gaps %+v", r.Commands, before+2, r.Gaps)
	}
	// A fence after the gap is no matter of doubt.
	a.claim(1, keyC, keyB)
	b.claim(1, keyB+1, keyC)
	a.written(1, statusGood)
	if r := w.judge.Report(nil); r.TwoWriters != 1 || r.Verdict != TwoWriters {
		t.Errorf("got %s, %d certain, want one", r.Verdict, r.TwoWriters)
	}
}

// A gap in the middle of large writes: no data may be taken for a command, although it looks like one.
func TestGapInDataThatLooksLikeCommands(t *testing.T) {
	w := newWire(t)
	a := w.login("n1", 0)
	old := a.header(opCommand, 0xa0) // of a disk image with a dump of iSCSI in it
	old[9], old[32] = 9, 0x2a
	old[27] += 200
	old[24] = 0x77
	a.command(1, 4096, []byte{0x2a}, nil)
	a.late = true
	a.lose = true
	a.send(a.header(opDataOut, 0x80))
	a.lose = false
	for range 100 {
		a.send(old)
	}
	a.acknowledge()
	r := w.judge.Report(nil)
	if len(r.Disks) != 1 || r.Disks[0].LUN != 1 || r.GapCount != 1 {
		t.Fatalf("got %+v, want disk 1 only and a gap", r)
	}
}

func TestJoinsInTheMiddle(t *testing.T) {
	for _, digests := range []string{"None", "CRC32C"} {
		w := newWire(t)
		a, b := w.login("n1", 0), w.connect("n2", 0)
		b.lose = true
		b.shake()
		b.logIn(digests)
		b.lose = false
		a.claim(1, keyA, 0)
		for range 4 {
			b.written(1, statusConflict)
		}
		b.claim(1, keyB, keyA)
		a.written(1, statusGood)
		r := w.judge.Report(nil)
		if digests != "None" { // nothing says how long its PDUs are: never judged
			if r.Verdict != Partly || r.TwoWriters != 0 {
				t.Errorf("with digests: got %s, want partly", r.Verdict)
			}
			continue
		}
		if r.TwoWriters != 1 || r.Violations[0].Node != "n1" || r.Violations[0].Fence.By != "n2" || r.GapCount != 2 {
			t.Errorf("got %+v, want a violation and two gaps", r)
		}
		if len(r.Disks) != 1 || r.Disks[0].Target != target {
			t.Errorf("got disks %+v, want one of %s", r.Disks, target)
		}
	}
}

func TestDigests(t *testing.T) {
	w := newWire(t)
	a := w.connect("n1", 0)
	a.shake()
	a.logIn("CRC32C")
	b := w.login("n2", 0)
	a.claim(1, keyA, 0)
	a.written(1, statusGood)
	b.claim(1, keyB, keyA)
	a.written(1, statusGood)
	w.check("two writers\nlun 1: n1 late write over n2, 1")
	if c := w.judge.Report(nil).Connections[0]; c.HeaderDigest != "CRC32C" || c.DataDigest != "CRC32C" || c.Initiator != initiator("n1") {
		t.Errorf("got %+v", c)
	}
}

func TestReport(t *testing.T) {
	w := newWire(t)
	a, a2, b := w.login("n1", 0), w.login("n1", 1), w.login("n2", 0)
	a.claim(1, keyA, 0)
	a2.reserve(1, RegisterIgnore, 0, keyA)
	a.written(1, statusGood)
	a2.written(1, statusGood)
	b.claim(1, keyB, keyA)
	at := w.now
	b.written(1, statusGood)
	a.written(1, statusConflict)
	r := w.judge.Report([]uint64{0})
	d := r.Disks[0]
	if d.Owner != "n2" || d.MoveCount != 2 || d.Moves[1].From != "n1" || d.Moves[1].Key != "0xaaaa010000000001" || at.Sub(d.Moves[1].Time) > 2*time.Millisecond {
		t.Errorf("owner %s, moves %+v", d.Owner, d.Moves)
	}
	if len(d.Keys) != 1 || d.Keys[0] != (Key{Node: "n2", Initiator: initiator("n2"), ISID: "00023d000000", Group: 1, Key: "0xaaaa020000000002", Holder: true}) {
		t.Errorf("keys %+v", d.Keys)
	}
	if len(d.Fenced) != 1 || d.Fenced[0].Node != "n1" {
		t.Errorf("fenced %+v", d.Fenced)
	}
	if len(d.Writers) != 2 || d.Writers[0].Writes != 2 || d.Writers[0].Bytes != 8192 || d.Writers[0].Refused != 1 || d.Writers[1].Writes != 1 {
		t.Errorf("writers %+v", d.Writers)
	}
	if r.Commands != 9 || r.Judged != 9 || len(r.Connections) != 3 || r.Verdict != Clean {
		t.Errorf("got %+v", r)
	}
	if r := w.judge.Report([]uint64{1}); r.Judged != 0 || r.Verdict != Nothing || !r.Disks[0].Shared {
		t.Errorf("shared: got %+v", r)
	}
}

// What is kept is bounded, and what there is no room for is not called clean.
func TestBounds(t *testing.T) {
	w := newWire(t)
	for range maxConnections + 10 {
		s := w.connect("n1", 0)
		s.shake()
	}
	if n := len(w.judge.conns); n != maxConnections {
		t.Errorf("%d connections are kept, want %d", n, maxConnections)
	}
	a := w.login("n1", 0)
	a.written(1, statusGood)
	for range maxPending + 10 {
		a.command(1, 0, []byte{0x2a}, nil)
	}
	if n := len(w.judge.conns[connID{0, a.client, a.server}].pending); n != maxPending {
		t.Errorf("%d commands wait, want %d", n, maxPending)
	}
	a.late = true
	a.lose = true
	a.send(make([]byte, headerBytes))
	a.lose = false
	for range 3 * maxHeld / mss {
		a.send(make([]byte, mss))
	}
	if n := w.judge.conns[connID{0, a.client, a.server}].toTarget.bytes; n > maxHeld {
		t.Errorf("%d bytes are held, want %d at most", n, maxHeld)
	}
	a.acknowledge()
	if r := w.judge.Report(nil); r.Verdict != Partly || r.Dropped == 0 || r.GapCount == 0 {
		t.Errorf("got %s, %d dropped, %d gaps", r.Verdict, r.Dropped, r.GapCount)
	}
}

// One machine that plays two initiators, as the lab's host does, is two nodes; and one that has no name is told by
// its initiator's.
func TestInitiatorsOfOnePort(t *testing.T) {
	for _, port := range []string{"host", ""} {
		w := newWire(t)
		w.frame = func(from string, lan int, frame []byte) {
			if from != "san" {
				from = port
			}
			w.judge.Frame(w.now, lan, from, frame)
		}
		a, b := w.login("n1", 0), w.login("n2", 1)
		a.claim(1, keyA, 0)
		b.claim(1, keyB, keyA)
		a.written(1, statusGood)
		r := w.judge.Report(nil)
		want := port
		if port == "" {
			want = initiator("n1")
		}
		if r.TwoWriters != 1 || r.Violations[0].Node != want || r.Violations[0].Fence.By != initiator("n2") {
			t.Errorf("port %q: got %s %+v", port, r.Verdict, r.Violations)
		}
	}
}

// machine is a port; nobody hears it out.
type machine struct{}

func (machine) WriteFrames([][]byte) error { return nil }

// TestCatchesItOnSwitches: two nodes and a target on real switches, with the victim cut off.
func TestCatchesItOnSwitches(t *testing.T) {
	watch := NewWatch()
	w := newWire(t)
	watch.now = func() time.Time { return w.now }
	ports := map[string]*ethernet.Port{}
	for lan := range 2 {
		sw := ethernet.New()
		sw.Tap(watch.Tap(lan))
		for _, name := range []string{"n1", "n2", "san"} {
			p := sw.Attach(name, machine{})
			t.Cleanup(p.Detach)
			ports[name+string(rune('0'+lan))] = p
		}
	}
	w.frame = func(port string, lan int, frame []byte) { ports[port+string(rune('0'+lan))].Receive(frame) }
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan Record, 10)
	followed := make(chan error, 1)
	go func() { followed <- watch.Follow(ctx, []uint64{0}, func(r Record) error { told <- r; return nil }) }()
	a, b := w.login("n1", 0), w.login("n2", 1)
	a.claim(0, keyA, 0) // not told: this disk is shared
	a.claim(1, keyA, 0)
	a.written(1, statusGood)
	ports["n10"].SetFault(ethernet.In, ethernet.Fault{Drop: true})
	b.claim(1, keyB, keyA)
	a.written(1, statusGood)
	if r := watch.Report([]uint64{0}); r.TwoWriters != 1 || r.Verdict != TwoWriters {
		t.Errorf("got %+v, want a violation", r)
	}
	for i := range 3 {
		if r := <-told; (r.Violation != nil) != (i == 2) || (r.Move != nil) != (i < 2) {
			t.Errorf("record %d: got %+v, want two moves and the violation", i, r)
		}
	}
	cancel()
	if err := <-followed; err != nil {
		t.Errorf("end of following: %v", err)
	}
}
