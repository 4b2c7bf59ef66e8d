package shared

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func node(id uint32, incarnation uint64) Member {
	return Member{Node: fmt.Sprintf("n%d", id), ID: id, Incarnation: incarnation, Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(id)})}
}

func in(generation uint64, ms ...Member) Membership {
	return Membership{Generation: generation, Members: ms}
}

// runs reports of members that are started with a generation.
func runs(generation uint64, ms ...Member) []Report {
	var out []Report
	for _, m := range ms {
		out = append(out, Report{Member: m, Stopped: generation, Started: generation})
	}
	return out
}

func TestPlan(t *testing.T) {
	a, b, c := node(1, 1), node(2, 1), node(3, 1)
	wants := func(m Member, w Want, generation uint64) Report {
		return Report{Member: m, Wants: w, Stopped: generation, Started: generation}
	}
	cases := []struct {
		name    string
		cur     Membership
		reports []Report
		dead    []Member
		want    string // empty: nothing
	}{
		{"nobody wants anything", in(4, a, b), runs(4, a, b), nil, ""},
		{"the first", Membership{}, []Report{{Member: b, Wants: WantJoin}}, nil, "generation 1: n2/1; n2/1 joins"},
		{"a third", in(4, a, b), append(runs(4, a, b), Report{Member: c, Wants: WantJoin}), nil, "generation 5: n1/1 n2/1 n3/1; n3/1 joins"},
		{"a third while a change is under way", in(4, a, b), append(append(runs(4, a), runs(3, b)...), Report{Member: c, Wants: WantJoin}), nil, ""},
		{"no journal is free", in(4, a, b, c), append(runs(4, a, b, c), Report{Member: node(4, 1), Wants: WantJoin}), nil, ""},
		{"one leaves", in(4, a, b), append(runs(4, a), wants(b, WantLeave, 4)), nil, "generation 5: n1/1; left n2/1; n2/1 leaves"},
		{"the last leaves", in(4, a), []Report{wants(a, WantLeave, 4)}, nil, "generation 5: ; left n1/1; n1/1 leaves"},
		{"silence is not death", in(4, a, b), runs(4, a), nil, ""},
		{"proof is", in(4, a, b), runs(4, a), []Member{b}, "generation 5: n1/1; n2/1 has failed"},
		{"also in the middle of a change", in(4, a, b, c), append(runs(4, a), runs(3, b, c)...), []Member{c}, "generation 5: n1/1 n2/1; n3/1 has failed"},
		{"who left in the change that is broken off has left", Membership{Generation: 4, Members: []Member{a, b}, Left: []Member{c}}, runs(3, a, b), []Member{b},
			"generation 5: n1/1; left n3/1; n2/1 has failed"},
		{"and is let in again by the one after", Membership{Generation: 4, Members: []Member{a, b}, Left: []Member{c}}, append(runs(3, a, b), Report{Member: c, Wants: WantJoin}), []Member{b},
			"generation 5: n1/1; left n3/1; n2/1 has failed"},
		{"back before there is proof", in(4, a, b), append(runs(4, a), Report{Member: node(2, 2), Wants: WantJoin}), nil, ""},
		{"back with proof", in(4, a, b), append(runs(4, a), Report{Member: node(2, 2), Wants: WantJoin}), []Member{b}, "generation 5: n1/1 n2/2; n2/1 has failed, n2/2 joins"},
		{"one who is proven dead does not join", in(4, a), append(runs(4, a), Report{Member: b, Wants: WantJoin}), []Member{b}, ""},
		{"an agent was restarted", in(4, a, b), append(runs(4, a), Report{Member: b, Stopped: 4, Started: 4, Again: 4}), nil, "generation 5: n1/1 n2/1; n2/1 was interrupted"},
		{"that has been dealt with", in(5, a, b), append(runs(5, a), Report{Member: b, Stopped: 5, Started: 5, Again: 4}), nil, ""},
		{"a broken one stays until there is proof", in(4, a, b), append(runs(4, a), Report{Member: b, Wants: WantLeave, Stopped: 4, Started: 4, Broken: "withdrawn"}), nil, ""},
		{"the ledger is older than what runs", in(4, a, b), append(runs(6, a), Report{Member: c, Wants: WantJoin}), []Member{b}, ""},
	}
	for _, c := range cases {
		next, why, ok := Plan(c.cur, c.reports, 3, func(m Member) bool { return slices.Contains(c.dead, m) })
		got := ""
		if ok {
			got = next.String()
			if len(next.Left) > 0 {
				got += "; left"
				for _, m := range next.Left {
					got += " " + m.String()
				}
			}
			got += "; " + why
			if err := next.Validate(); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	a, b := node(1, 1), node(2, 1)
	nameless := b
	nameless.Address = netip.Addr{}
	twin := b
	twin.Address = a.Address
	var many []Member
	for i := range uint32(MaxMembers + 1) {
		many = append(many, node(i+1, 1))
	}
	for _, c := range []struct {
		m    Membership
		want string
	}{
		{in(1, a, b), ""},
		{in(1, b, a), "not in order"},
		{in(1, a, a), "given twice"},
		{in(1, node(0, 1)), "number 0"},
		{in(1, a, nameless), "no address"},
		{in(1, a, twin), "address of another"},
		{Membership{Members: []Member{a}, Left: []Member{a}}, "left"},
		{in(1, many...), "16 at most"},
	} {
		err := c.m.Validate()
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || err != nil && !strings.Contains(got, c.want) {
			t.Errorf("%s: got %v, want %q", c.m, err, c.want)
		}
	}
}

// TestCore: one node's way in, through the failure of another, and out.
func TestCore(t *testing.T) {
	a, b, other := node(1, 1), node(2, 1), node(3, 1)
	c := NewCore(a)
	step := func(want string) {
		t.Helper()
		got := "nothing"
		if act, ok := c.Next(); ok {
			got = act.String()
			if len(act.Failed) > 0 {
				got += fmt.Sprint("; failed ", act.Failed)
			}
			if act.Admit {
				got += "; admit"
			}
			c.Done(nil)
		}
		if got != want {
			t.Fatalf("got %q, want %q; waits for %q", got, want, c.Waiting())
		}
	}
	step("nothing")
	c.Joined()
	step("nothing")
	if r := c.Report(); r.Wants != WantJoin {
		t.Fatalf("report: %+v", r)
	}
	c.Committed(in(1, a, b, other))
	step("stop generation 1: n1/1 n2/1 n3/1; admit")
	step("nothing")
	if got, want := c.Waiting(), "n2, n3 to stop for generation 1, or proof that they have failed"; got != want {
		t.Errorf("waiting: got %q, want %q", got, want)
	}
	c.Reported(Report{Member: b, Stopped: 1})
	step("nothing")
	c.Reported(Report{Member: node(3, 2), Stopped: 1}) // another run of it
	step("nothing")
	c.Reported(Report{Member: other, Stopped: 1})
	step("start generation 1: n1/1 n2/1 n3/1; admit")
	if c.State() != In {
		t.Fatalf("state %s", c.State())
	}
	step("nothing")
	c.Committed(in(2, a, b))
	step("stop generation 2: n1/1 n2/1; failed [n3/1]")
	c.Committed(in(3, a)) // the second fails before it has stopped
	step("stop generation 3: n1/1; failed [n3/1 n2/1]")
	c.Committed(in(2, a, b)) // late
	step("start generation 3: n1/1; failed [n3/1 n2/1]")
	c.Left()
	if r := c.Report(); r.Wants != WantLeave {
		t.Fatalf("report: %+v", r)
	}
	step("nothing")
	c.Committed(Membership{Generation: 4, Left: []Member{a}})
	step("stop generation 4: ")
	step("release generation 4: ")
	if c.State() != Out {
		t.Fatalf("state %s", c.State())
	}
	c.Joined()
	c.Committed(in(5, a))
	step("stop generation 5: n1/1; admit")
	step("start generation 5: n1/1; admit")
	c.Committed(in(6, b))
	if r := c.Report(); c.State() != Broken || !strings.Contains(r.Broken, "hold this one for failed") {
		t.Errorf("thrown out: %s, %+v", c.State(), r)
	}
}
