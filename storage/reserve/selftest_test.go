package reserve

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSelfTestVerdict(t *testing.T) {
	for _, tt := range []struct {
		defect string
		paths  int
		want   string // part of the verdict
	}{
		{"", 2, "fast-fenced: "},
		{"", 4, "fast-fenced: "},
		{"", 1, "because it has one path only"},
		{"no full status", 2, "fast-fenced: "},
		{"keys are per path", 2, "because a registration is not seen through the other path"},
		{"reservation is per path", 2, "because a reservation is not seen through the other path"},
		{"does not persist", 2, "(PTPL_A)"},
		{"refuses APTPL", 2, "(APTPL) (register and ignore existing key through sda: sda: register and ignore existing key: not supported"},
		{"fails but registers", 2, "(APTPL)"},
		{"writes are not checked", 2, "because it lets a second node write that is not registered"},
		{"two reservations", 2, "because it gives a reservation to two"},
		{"no abort", 2, "because it lets one who is not registered take over"},
		{"anybody may preempt", 2, "because it lets one who is not registered take over"},
		{"preempt does nothing", 2, "because a node whose key was taken can still write"},
		{"reservation is lost", 2, "because a node whose key was taken can still write"},
		{"wrong full status", 2, "READ FULL STATUS"},
		{"clear does nothing", 2, "because registrations stay when cleared"},
	} {
		d := newFakeDisk(tt.paths)
		d.defect = tt.defect
		d.paths[0].attention(0x29, 0x00) // as after a reset: says nothing about a test that has not begun
		d.block[7] = 77
		v, err := SelfTest(t.Context(), testCodec, TestOptions{}, d.nexuses()...)
		if err != nil {
			t.Errorf("defect %q: %v", tt.defect, err)
			continue
		}
		if got := v.String(); !strings.Contains(got, tt.want) || v.FastFenced != strings.HasPrefix(got, "fast-fenced") {
			t.Errorf("defect %q: got %q, want %q", tt.defect, got, tt.want)
		}
		for _, p := range d.paths {
			if p.key != 0 {
				t.Errorf("defect %q: key %s is left on %s", tt.defect, p.key, p.name)
			}
		}
		if d.holder != nil || d.block[7] != 77 {
			t.Errorf("defect %q: reserved by %v, block changed: %v", tt.defect, d.holder, d.block[7] != 77)
		}
	}
}

func TestSelfTestRefuses(t *testing.T) {
	claim, err := testCodec.Encode(key(3, 700))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		key  Key
		o    TestOptions
		want error
	}{
		{"a stranger's", 0xabcdef, TestOptions{}, ErrForeign},
		{"a claim's", claim, TestOptions{}, ErrInUse},
		{"an earlier self-test's", testCodec.Test(2), TestOptions{}, nil},
		{"a stranger's, to be taken away", 0xabcdef, TestOptions{TakeAway: true}, nil},
	} {
		d := newFakeDisk(3)
		d.paths[2].key, d.holder, d.kind = tt.key, d.paths[2], WriteExclusiveRegistrantsOnly
		v, err := SelfTest(t.Context(), testCodec, tt.o, d.nexuses(0, 1)...)
		if !errors.Is(err, tt.want) || v.FastFenced != (tt.want == nil) {
			t.Errorf("%s key: got %v, %v, want error %v", tt.name, v, err, tt.want)
		}
		if tt.want == nil {
			continue
		}
		if d.paths[2].key != tt.key || d.holder != d.paths[2] || d.paths[0].key != 0 || d.paths[1].key != 0 {
			t.Errorf("%s key: the refused disk was touched", tt.name)
		}
	}
}

func TestSelfTestPathFailsIsNoVerdict(t *testing.T) {
	for _, op := range []Op{ReadKeys, RegisterIgnore, PreemptAbort, WriteBlock} {
		d := newFakeDisk(2)
		d.paths[1].fails[op] = ErrTransport
		v, err := SelfTest(t.Context(), testCodec, TestOptions{}, d.nexuses()...)
		if !errors.Is(err, ErrTransport) || v.FastFenced || v.Because != "" {
			t.Errorf("%s fails: got %v, %v, want an error and no verdict", op, v, err)
		}
	}
}

func TestSelfTestGivenUpIsTidied(t *testing.T) {
	d := newFakeDisk(2)
	ctx, cancel := context.WithCancel(t.Context())
	d.paths[1].hook[PreemptAbort] = cancel
	if v, err := SelfTest(ctx, testCodec, TestOptions{}, d.nexuses()...); v.FastFenced || !errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v, %v, want %v", v, err, ErrNoAnswer)
	}
	if d.holder != nil || d.paths[0].key != 0 || d.paths[1].key != 0 {
		t.Error("the disk stays reserved")
	}
}

// Every step must matter: a plan from which any step that forbids something is dropped would be believed.
func TestPlanForbids(t *testing.T) {
	steps := Plan(1, 2, Capacity{Blocks: 10, BlockSize: 512})
	if n := len(slices.DeleteFunc(slices.Clone(steps), func(s Step) bool { return !s.Want.conflict })); n < 7 {
		t.Errorf("got %d steps that must be refused, want 7 or more", n)
	}
	for i, s := range steps {
		if s.Otherwise == "" {
			t.Errorf("step %d, %s, has no words for its failure", i, s.Command.Op)
		}
		if s.Want.conflict {
			var fault *Fault
			if err := s.check(Answer{}, nil); !errors.As(err, &fault) {
				t.Errorf("step %d, %s, is executed: got %v, want a fault", i, s.Command.Op, err)
			}
		}
	}
}
