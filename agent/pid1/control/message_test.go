package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestParseRequest(t *testing.T) {
	for _, test := range []struct {
		line string
		want Request
		err  string
	}{
		{line: `{"op":"feed"}`, want: Request{Op: Feed}},
		{line: `{"op":"feed","at_ms":12}`, want: Request{Op: Feed, AtMS: 12}},
		{line: `{"op":"reboot","reason":"upgrade","later":1}`, want: Request{Op: Reboot, Reason: "upgrade"}},
		{line: `{"op":"poweroff","reason":"a\nb\u001b[2J"}`, want: Request{Op: Poweroff, Reason: "a b [2J"}},
		{line: `{"op":"stop-services"}`, want: Request{Op: StopServices}},
		{line: `{"op":"feed","will":{"patience_ms":8000}}`, want: Request{Op: Feed}},
		{line: `{"op":"will","will":{"patience_ms":8000,"links":[{"link":"eth0","payload":"AQI=","to":["10.77.0.2:7700"]}]}}`,
			want: Request{Op: SetWill, Will: &Will{PatienceMS: 8000, Links: []WillLink{
				{Link: "eth0", Payload: []byte{1, 2}, To: []netip.AddrPort{netip.MustParseAddrPort("10.77.0.2:7700")}}}}}},
		{line: `{"op":"bind","until_ms":38000,"will":{}}`, want: Request{Op: Bind, UntilMS: 38000}},
		{line: `{"op":"unbind","until_ms":7}`, want: Request{Op: Unbind}},
		{line: `{"op":"bind"}`, err: "not a time since boot"},
		{line: `{"op":"bind","until_ms":-1}`, err: "not a time since boot"},
		{line: `{"op":"bind","until_ms":9223372036854775807}`, err: "not a time since boot"},
		{line: `{"op":"will"}`, err: "there is none"},
		{line: `{"op":"will","will":{"links":[]}}`, err: "patience"},
		{line: `{"op":"will","will":{"patience_ms":9000000000000000000}}`, err: "patience"},
		{line: `{"op":"will","will":{"patience_ms":1,"links":[{"link":"../eth0","payload":"AQI="}]}}`, err: "name of a link"},
		{line: `{"op":"will","will":{"patience_ms":1,"links":[{"link":"eth0"}]}}`, err: "0 bytes"},
		{line: `{"op":"will","will":{"patience_ms":1,"links":[{"link":"eth0","payload":"AQI=","to":["[::1]:7"]}]}}`, err: "not an IPv4"},
		{line: `{"op":"will","will":{"patience_ms":1,"links":[{"link":"eth0","payload":"AQI=","to":["10.0.0.1:0"]}]}}`, err: "not an IPv4"},
		{line: `{"op":"will","will":{"patience_ms":1,"links":[{"link":"eth0","payload":"AQI=","to":["nowhere"]}]}}`, err: "not a request"},
		{line: ``, err: "not a request"},
		{line: `{"op":"feed"`, err: "not a request"},
		{line: `{"op":"feed"}{"op":"reboot"}`, err: "not a request"},
		{line: `{"op":"dance"}`, err: "unknown request"},
		{line: `{}`, err: "unknown request"},
		{line: `{"op":"feed","at_ms":-1}`, err: "not a time since boot"},
		{line: `{"op":"feed","at_ms":9223372036854775807}`, err: "not a time since boot"},
		{line: `{"op":"feed","reason":"` + strings.Repeat("x", MaxLine) + `"}`, err: "longer than"},
	} {
		got, err := ParseRequest([]byte(test.line))
		if test.err == "" {
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("ParseRequest(%.60q): got %+v, %v, want %+v", test.line, got, err, test.want)
			}
		} else if err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("ParseRequest(%.60q): got error %v, want one with %q", test.line, err, test.err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"op":"feed","at_ms":12}`))
	f.Add([]byte(`{"op":"reboot","reason":"a\nb"}`))
	f.Add([]byte(`[1`))
	f.Add([]byte(`{"op":"will","will":{"patience_ms":8000,"links":[{"link":"eth0","payload":"AQI=","to":["10.77.0.2:7700"]}]}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRequest(line)
		if err != nil {
			return
		}
		if len(r.Reason) > MaxReason || strings.ContainsAny(r.Reason, "\n\r\x1b") || !utf8.ValidString(r.Reason) {
			t.Errorf("reason %q is not one short line", r.Reason)
		}
		// What was accepted can be said again and means the same.
		again, err := ParseRequest(bytes.TrimSuffix(AppendLine(nil, r), []byte{'\n'}))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("said again: got %+v, %v, want %+v", again, err, r)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"op":"exit","pid":7,"code":1,"signal":0,"at_ms":12}`))
	f.Add([]byte(`{"op":"replayed"}`))
	f.Add([]byte(`{"op":"bound","until_ms":38000}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		e, err := ParseEvent(line)
		if err == nil && e.Op == Exit && e.PID <= 0 {
			t.Errorf("accepted the exit of process %d", e.PID)
		}
		if err == nil && e.Op == Bound && e.UntilMS <= 0 {
			t.Errorf("accepted a binding until %d", e.UntilMS)
		}
	})
}

// FuzzLines: whatever arrives, a reader sees every line of legal length whole, and nothing else.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\n\nb"))
	f.Add([]byte(strings.Repeat("x", MaxLine+1) + "\nnext\n"))
	f.Add([]byte(strings.Repeat("x", MaxLine) + "\n" + strings.Repeat("y", 3*MaxLine)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		lines := NewLines(bytes.NewReader(stream))
		all := bytes.Split(stream, []byte{'\n'})
		for _, want := range all[:len(all)-1] {
			got, err := lines.Next()
			if len(want) > MaxLine {
				if lineErr := (*LineError)(nil); !errors.As(err, &lineErr) {
					t.Fatalf("line of %d bytes: got error %v, want a LineError", len(want), err)
				}
				continue
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("got %.40q, %v, want %.40q", got, err, want)
			}
		}
		if _, err := lines.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: got %v, want EOF", err)
		}
	})
}

// TestEveryMessageFitsALine: nothing that is sent is longer than what is read.
func TestEveryMessageFitsALine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Request{Op: Reboot, Reason: clip(rapid.String().Draw(t, "reason")), AtMS: rapid.Int64Min(0).Draw(t, "at")}
		if n := len(AppendLine(nil, r)); n > MaxLine {
			t.Errorf("request of %d bytes, want at most %d", n, MaxLine)
		}
	})
	worst := Request{Op: StopServices, Reason: clip(strings.Repeat("<", 2*MaxReason)), AtMS: 1 << 60}
	if n := len(AppendLine(nil, worst)); n > MaxLine {
		t.Errorf("worst request has %d bytes, want at most %d", n, MaxLine)
	}
	w := Will{PatienceMS: MaxWillPatience.Milliseconds()}
	for i := range MaxWillLinks {
		l := WillLink{Link: strings.Repeat("<", maxLinkName), Payload: bytes.Repeat([]byte{0xff}, MaxWillPayload),
			Stopped: bytes.Repeat([]byte{0xff}, MaxWillWords), Failed: bytes.Repeat([]byte{0xff}, MaxWillWords)}
		for range MaxWillTargets / MaxWillLinks {
			l.To = append(l.To, netip.MustParseAddrPort("192.168.100.100:65535"))
		}
		w.Links = append(w.Links, l)
		if err := w.check(); err != nil {
			t.Fatalf("will of %d links: %v", i+1, err)
		}
	}
	if n := len(AppendLine(nil, Request{Op: SetWill, Will: &w, AtMS: 1 << 60})); n > MaxLine {
		t.Errorf("greatest will has %d bytes, want at most %d", n, MaxLine)
	}
}

func TestConn(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	conn := NewConn(ours)
	defer conn.Close()
	go func() {
		theirs.Write([]byte("nonsense\n"))
		theirs.Write(AppendLine(nil, Event{Op: Exit, PID: 7, Signal: 9, AtMS: 1500}))
		theirs.Write(AppendLine(nil, Event{Op: Replayed}))
		var line json.RawMessage
		json.NewDecoder(theirs).Decode(&line)
		theirs.Write(AppendLine(nil, Event{Op: Exit, PID: 8, Code: len(line)}))
		theirs.Close()
	}()
	if _, err := conn.Receive(); !errors.As(err, new(*LineError)) {
		t.Errorf("nonsense: got error %v, want a LineError", err)
	}
	e, err := conn.Receive()
	if want := (Event{Op: Exit, PID: 7, Signal: 9, AtMS: 1500}); err != nil || e != want {
		t.Errorf("got %+v, %v, want %+v", e, err, want)
	}
	if got, want := e.At(), 1500*time.Millisecond; got != want {
		t.Errorf("At: got %s, want %s", got, want)
	}
	if e, err := conn.Receive(); err != nil || e.Op != Replayed {
		t.Errorf("got %+v, %v, want replayed", e, err)
	}
	if err := conn.Feed(); err != nil {
		t.Errorf("Feed: %v", err)
	}
	if e, err := conn.Receive(); err != nil || e.Code == 0 {
		t.Errorf("got %+v, %v, want the length of the request that was sent", e, err)
	}
	if _, err := conn.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %v, want EOF", err)
	}
	if err := conn.Feed(); err == nil {
		t.Error("Feed after the end: got no error")
	}
}

func TestOpenWithoutPID1(t *testing.T) {
	if _, err := Open(); !errors.Is(err, ErrNoPID1) {
		t.Errorf("got %v, want %v", err, ErrNoPID1)
	}
	for _, bad := range []string{"", "x", "-1", "2"} {
		t.Setenv(FDEnv, bad)
		if _, err := Open(); err == nil || !strings.Contains(err.Error(), "is not a descriptor") {
			t.Errorf("%s=%q: got %v, want an error", FDEnv, bad, err)
		}
	}
}
