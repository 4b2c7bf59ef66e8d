package san

import (
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	if got, want := WWN(1), "naa.60014055ce100016c614200800073616"; got != want {
		t.Errorf("WWN of LUN 1: got %s, want %s", got, want)
	}
	uuid := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for n := range MaxLUNs {
		if !uuid.MatchString(Serial(n)) || len(WWN(n)) != len("naa.")+32 || seen[WWN(n)] {
			t.Errorf("LUN %d: %s, %s", n, Serial(n), WWN(n))
		}
		seen[WWN(n)] = true
	}
}

func TestOrders(t *testing.T) {
	lab, machine := net.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- Serve(machine, func(o Order) (*Status, error) {
			switch o.Op {
			case OpLose:
				return nil, errors.New("no")
			case OpRestart: // first the rest of an answer that nobody waited for, and another one
				if _, err := io.WriteString(machine, "d\":1}\n"+`{"id":1,"status":{}}`+"\n"); err != nil {
					return nil, err
				}
			}
			return &Status{Sessions: []string{string(o.Op), o.Delay.String()}}, nil
		})
	}()
	// What was left of an order when the lab gave it up.
	if _, err := io.WriteString(lab, "{\"id\":7,\"op\":\"sh\nnonsense\n{}\n{\"id\":1,\"op\":"); err != nil {
		t.Fatal(err)
	}
	c := NewControl(lab)
	if s, err := c.Do(Order{Op: OpSlow, Delay: 5e9}); err != nil || strings.Join(s.Sessions, " ") != "slow 5s" {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := c.Do(Order{Op: OpLose}); err == nil || !strings.HasSuffix(err.Error(), ": no") {
		t.Errorf("refused: got %v", err)
	}
	if s, err := c.Do(Order{Op: OpRestart}); err != nil || s.Sessions[0] != "restart" {
		t.Errorf("after a late answer: got %+v, %v", s, err)
	}
	lab.Close()
	if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the end: got %v", err)
	}
}

// FuzzAnswer: whatever comes back, an order ends when the port does.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"id":1,"status":{"luns":[{"number":0}]}}` + "\n"))
	f.Add([]byte("x\n" + `{"id":1,"error":"no"}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := NewControl(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(string(data)), io.Discard})
		if s, err := c.Do(Order{Op: OpShow}); (s == nil) == (err == nil) {
			t.Errorf("got %+v, %v", s, err)
		}
	})
}
