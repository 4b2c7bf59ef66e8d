package ethernet

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// collector is a device that keeps what it is sent; it can stand still.
type collector struct {
	frames chan []byte
	hold   chan struct{} // writes wait until it is closed
}

func newCollector() *collector {
	c := &collector{frames: make(chan []byte, 4*QueueFrames), hold: make(chan struct{})}
	close(c.hold)
	return c
}

func (c *collector) WriteFrames(frames [][]byte) error {
	<-c.hold
	for _, f := range frames {
		c.frames <- f
	}
	return nil
}

func (c *collector) next(t *testing.T) []byte {
	t.Helper()
	select {
	case f := <-c.frames:
		return f
	case <-time.After(10 * time.Second):
		t.Fatal("got no frame in 10 s, want one")
		return nil
	}
}

func mac(n byte) MAC { return MAC{0x52, 0x54, 0, 0, 0, n} }

var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func frame(dst, src MAC, text string) []byte {
	return append(append(append([]byte{}, dst[:]...), append(src[:], 0x88, 0xb5)...), text...)
}

func three(t *testing.T) (*Switch, []*Port, []*collector) {
	t.Helper()
	s := New()
	var ports []*Port
	var devs []*collector
	for _, name := range []string{"n1", "n2", "n3"} {
		d := newCollector()
		p := s.Attach(name, d)
		t.Cleanup(p.Detach)
		ports, devs = append(ports, p), append(devs, d)
	}
	return s, ports, devs
}

func TestFloodsThenLearns(t *testing.T) {
	_, p, d := three(t)
	p[0].Receive(frame(mac(2), mac(1), "unknown"))
	for _, i := range []int{1, 2} {
		if got := d[i].next(t); !bytes.HasSuffix(got, []byte("unknown")) {
			t.Fatalf("port %d got %q, want the flooded frame", i, got)
		}
	}
	p[1].Receive(frame(mac(1), mac(2), "back"))
	d[0].next(t)
	p[0].Receive(frame(mac(2), mac(1), "known"))
	d[1].next(t)
	for _, group := range []MAC{broadcast, {0x33, 0x33, 0, 0, 0, 1}, {1, 0, 0x5e, 0, 0, 18}} {
		p[0].Receive(frame(group, mac(1), "all"))
		d[1].next(t)
		if got := d[2].next(t); !bytes.HasSuffix(got, []byte("all")) {
			t.Fatalf("port 3 got %q, want only frames for all", got)
		}
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name    string
		set     func(p []*Port)
		arrives bool
	}{
		{"none", func([]*Port) {}, true},
		{"silent sender", func(p []*Port) { p[0].SetFault(Out, Fault{Drop: true}) }, false},
		{"sender that only hears nothing", func(p []*Port) { p[0].SetFault(In, Fault{Drop: true}) }, true},
		{"silent receiver", func(p []*Port) { p[1].SetFault(In, Fault{Drop: true}) }, false},
		{"all lost", func(p []*Port) { p[1].SetFault(In, Fault{Loss: 1}) }, false},
		{"too long", func(p []*Port) { p[0].SetFault(Out, Fault{Longest: 14}) }, false},
		{"not too long", func(p []*Port) { p[0].SetFault(Out, Fault{Longest: 15}) }, true},
		{"too long for the receiver", func(p []*Port) { p[1].SetFault(In, Fault{Longest: 14}) }, false},
		{"other group", func(p []*Port) { p[0].SetGroup(1); p[1].SetGroup(2) }, false},
		{"same group", func(p []*Port) { p[0].SetGroup(1); p[1].SetGroup(1) }, true},
		{"group of all", func(p []*Port) { p[0].SetGroup(1); p[1].SetGroup(0) }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, p, d := three(t)
			tt.set(p)
			p[0].Receive(frame(mac(2), mac(1), "x"))
			// The frame of port 3 comes after, by the same queue: what has not arrived before it never will.
			p[2].SetGroup(0)
			p[1].SetFault(In, Fault{})
			p[2].Receive(frame(broadcast, mac(3), "end"))
			got := !bytes.HasSuffix(d[1].next(t), []byte("end"))
			if got != tt.arrives {
				t.Fatalf("arrived: got %v, want %v", got, tt.arrives)
			}
		})
	}
}

func TestDelayKeepsOrderAndIsAtLeastAsLong(t *testing.T) {
	_, p, d := three(t)
	p[1].SetFault(In, Fault{Delay: 30 * time.Millisecond})
	start := time.Now()
	for i := range byte(20) {
		p[0].Receive(frame(mac(2), mac(1), string([]byte{i})))
	}
	for i := range byte(20) {
		got := d[1].next(t)
		if got[len(got)-1] != i {
			t.Fatalf("frame %d: got number %d", i, got[len(got)-1])
		}
	}
	if got := time.Since(start); got < 30*time.Millisecond {
		t.Fatalf("took %v, want at least the delay of 30ms", got)
	}
}

// A device that does not read must not hold up others: this is why gvisor-tap-vsock's switch was
// turned down.
func TestPausedPortDoesNotStallOthers(t *testing.T) {
	_, p, d := three(t)
	d[2].hold = make(chan struct{})
	for range 4 * QueueFrames {
		p[0].Receive(frame(broadcast, mac(1), "storm"))
		d[1].next(t)
	}
	if got := p[2].Stats().Overflow; got < QueueFrames {
		t.Fatalf("overflow of the paused port: got %d, want at least %d", got, QueueFrames)
	}
	if got := p[1].Stats().Overflow; got != 0 {
		t.Fatalf("overflow of the healthy port: got %d, want 0", got)
	}
	close(d[2].hold)
	d[2].next(t)
}

// A frame never goes back to where it came from and never reaches another group, whatever happened
// before.
func TestNeverEchoesNorCrosses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New()
		const n = 4
		var ports [n]*Port
		var devs [n]*collector
		for i := range ports {
			devs[i] = newCollector()
			ports[i] = s.Attach("p", devs[i])
			ports[i].SetGroup(rapid.IntRange(0, 2).Draw(t, "group"))
		}
		for range rapid.IntRange(1, 30).Draw(t, "frames") {
			from := rapid.IntRange(0, n-1).Draw(t, "from")
			to := rapid.IntRange(0, n-1).Draw(t, "to")
			ports[from].Receive(frame(mac(byte(to)), mac(byte(from)), string([]byte{byte(from)})))
		}
		for i, p := range ports {
			p.Detach()
			close(devs[i].frames)
			for f := range devs[i].frames {
				from := int(f[len(f)-1])
				a, b := ports[from].group, p.group
				if from == i || (a != 0 && b != 0 && a != b) {
					t.Fatalf("port %d (group %d) got a frame of port %d (group %d)", i, b, from, a)
				}
			}
		}
	})
}

func TestStream(t *testing.T) {
	a, b := net.Pipe()
	out, in := NewStream(a), NewStream(b)
	got := make(chan []byte, 2)
	ended := make(chan error, 1)
	go func() { ended <- in.ReadFrames(func(f []byte) { got <- f }) }()
	want := [][]byte{frame(mac(1), mac(2), "one"), frame(mac(1), mac(2), "two")}
	if err := out.WriteFrames(want); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if f := <-got; !bytes.Equal(f, want[i]) {
			t.Fatalf("frame %d: got %q, want %q", i, f, want[i])
		}
	}
	out.Close()
	if err := <-ended; err != nil {
		t.Fatalf("end of the connection: got %v, want nil", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(nil, 3))
	f.Add([]byte{0, 0, 0, 1, 9, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			frame, err := readFrame(r)
			if err != nil {
				if err == io.EOF && r.Len() != 0 {
					t.Fatalf("got end of input with %d bytes left", r.Len())
				}
				return
			}
			if len(frame) > MaxFrame {
				t.Fatalf("got a frame of %d bytes, want at most %d", len(frame), MaxFrame)
			}
		}
	})
}
