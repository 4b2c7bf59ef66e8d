package reserve

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/skein-os/skein/agent/takeover"
)

func TestOutcome(t *testing.T) {
	full := Answer{Keys: []Key{1, 2}, Reservation: &Reservation{Key: 2, Type: 5}, Capacity: Capacity{Blocks: 8, BlockSize: 512}, Data: []byte{1, 2}}
	for _, kind := range []error{nil, ErrConflict, ErrAttention, ErrUnsupported, ErrTarget, ErrTransport, ErrNoAnswer} {
		var in error
		if kind != nil {
			in = &Error{"/dev/sdb", Reserve, kind, "why"}
		}
		o, err := NewOutcome(full, in)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		var back Outcome
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		a, err := back.Result("n2:/dev/sdb", Reserve)
		if !errors.Is(err, kind) || kind == nil && !reflect.DeepEqual(a, full) {
			t.Errorf("%v: got %+v, %v", kind, a, err)
		}
	}
	if _, err := NewOutcome(Answer{}, errors.New("the device is not there")); err == nil {
		t.Error("got no error for what is no outcome")
	}
	if _, err := (Outcome{Kind: "made up"}).Result("x", Reserve); err == nil {
		t.Error("got no error for an unknown kind")
	}
}

func TestTesting(t *testing.T) {
	c, err := NewCodec("cluster")
	if err != nil {
		t.Fatal(err)
	}
	real, err := c.Encode(takeover.Key{Node: 1, Epoch: 9})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cmd Command
		ok  bool
	}{
		{Command{Op: ReadKeys}, true}, {Command{Op: RegisterIgnore, New: c.Test(1)}, true}, {Command{Op: WriteBlock, Data: make([]byte, 512)}, true},
		{Command{Op: RegisterIgnore, New: real}, false}, {Command{Op: PreemptAbort, Key: c.Test(1), Victim: real}, false}, {Command{Op: "format"}, false},
	} {
		if err := c.Testing(tt.cmd); (err == nil) != tt.ok {
			t.Errorf("%+v: got %v", tt.cmd, err)
		}
	}
}
