package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UnixConn)
	}
	return conn(fds[0]), conn(fds[1])
}

// qemu answers commands on conn as QEMU would.
func qemu(conn net.Conn, answer func(command string, id uint64) string) {
	fmt.Fprint(conn, `{"QMP": {"version": {}, "capabilities": []}}`+"\r\n")
	r := bufio.NewScanner(conn)
	for r.Scan() {
		var req struct {
			Execute string `json:"execute"`
			ID      uint64 `json:"id"`
		}
		if json.Unmarshal(r.Bytes(), &req) != nil {
			return
		}
		a := `{"return": {}, "id": %d}`
		if req.Execute != "qmp_capabilities" {
			a = answer(req.Execute, req.ID)
		}
		if a == "" {
			conn.Close()
			return
		}
		io.WriteString(conn, strings.ReplaceAll(a, "%d", fmt.Sprint(req.ID))+"\r\n")
	}
}

func TestExecute(t *testing.T) {
	a, b := pair(t)
	go qemu(b, func(command string, _ uint64) string {
		switch command {
		case "query-status":
			return `{"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 7}}` + "\r\n" + `{"return": {"status": "paused"}, "id": %d}`
		case "quit":
			return ""
		}
		return `{"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": %d}`
	})
	events := make(chan Event, 1)
	c := New(a, func(e Event) { events <- e })
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	var st struct{ Status string }
	if err := c.Execute(ctx, "query-status", nil, &st); err != nil || st.Status != "paused" {
		t.Fatalf("got %q, %v, want paused", st.Status, err)
	}
	if e := <-events; e.Name != "STOP" || e.Time.Unix() != 5 {
		t.Fatalf("got event %+v, want STOP at 5", e)
	}
	var refused *Error
	if err := c.Execute(ctx, "bogus", nil, nil); !errors.As(err, &refused) || refused.Command != "bogus" {
		t.Fatalf("got %v, want a refusal of bogus", err)
	}
	if err := c.Execute(ctx, "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want %v", err, ErrClosed)
	}
}

func TestLateReplyIsNotTakenForTheNext(t *testing.T) {
	a, b := pair(t)
	late := make(chan uint64, 1)
	go qemu(b, func(command string, id uint64) string {
		if command == "slow" {
			late <- id
			return "\r\n"
		}
		return fmt.Sprintf(`{"return": "of slow", "id": %d}`, <-late) + "\r\n" + `{"return": "of quick", "id": %d}`
	})
	c := New(a, nil)
	defer c.Close()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Execute(short, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	var got string
	if err := c.Execute(t.Context(), "quick", nil, &got); err != nil || got != "of quick" {
		t.Fatalf("got %q, %v, want \"of quick\"", got, err)
	}
}

func TestGarbageEndsTheConnection(t *testing.T) {
	a, b := pair(t)
	io.WriteString(b, "hello\n")
	c := New(a, nil)
	defer c.Close()
	if err := c.Start(t.Context()); err == nil {
		t.Fatal("got no error of a stream that is not QMP")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}`))
	f.Add([]byte(`{"return": {}, "id": 3}`))
	f.Add([]byte(`{"error": {"class": "x", "desc": "y"}}`))
	f.Add([]byte(`{"event": "RESET", "data": {"guest": true}, "timestamp": {"seconds": 1, "microseconds": 2}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err == nil && m.greeting == nil && m.ret == nil && m.fail == nil && m.event == nil {
			t.Fatalf("%q: got a message of no kind", line)
		}
	})
}
