package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/cluster"
)

// alone is n1 without a leader; n2 and n3 restarted and follow it.
func alone() stranded {
	x := stranded{
		self:    cluster.Node{Name: "n1", BootID: "11111111-a"},
		without: time.Minute, after: DefaultRestoreAfter, voter: true,
		members: []copyHolder{{name: "n1.11111111"}, {name: "n2.22222222"}, {name: "n3.33333333"}},
		asked:   map[string]evidence{},
	}
	for i := 1; i <= 3; i++ {
		name := fmt.Sprintf("n%d", i)
		x.nodes = append(x.nodes, cluster.Node{Name: name, MachineID: "machine-" + name, BootID: strings.Repeat(fmt.Sprint(i), 8) + "-a", State: cluster.NodeOnline})
		if i > 1 {
			x.asked[name] = evidence{machineID: "machine-" + name, bootID: "new-boot-" + name, pledged: true}
		}
	}
	return x
}

func TestJudge(t *testing.T) {
	ask := func(x *stranded, node string, change func(*evidence)) {
		r := x.asked[node]
		change(&r)
		x.asked[node] = r
	}
	for _, tc := range []struct {
		name   string
		change func(*stranded)
		waits  string // part of the only clause; empty: restore
	}{
		{"all others restarted", func(*stranded) {}, ""},
		{"a lost node restarted", func(x *stranded) { x.nodes[1].State = cluster.NodeLost }, ""},
		{"one has not asked", func(x *stranded) { delete(x.asked, "n2") }, "n2 has not been seen to restart"},
		{"a voter asks in its present boot", func(x *stranded) { ask(x, "n2", func(r *evidence) { r.bootID = x.nodes[1].BootID }) }, "n2 votes"},
		{"a learner asks in its present boot", func(x *stranded) {
			x.members[1].learner = true
			ask(x, "n2", func(r *evidence) { r.bootID = x.nodes[1].BootID })
		}, ""},
		{"a worker asks in its present boot", func(x *stranded) {
			x.members = slices.Delete(x.members, 1, 2)
			ask(x, "n2", func(r *evidence) { r.bootID = x.nodes[1].BootID })
		}, ""},
		{"a worker that did not restart knows more", func(x *stranded) {
			x.members, x.revision = slices.Delete(x.members, 1, 2), 10
			ask(x, "n2", func(r *evidence) { r.bootID, r.seen = x.nodes[1].BootID, 11 })
		}, "n2 has acted on revision 11"},
		{"a worker that did not restart knows as much", func(x *stranded) {
			x.members, x.revision = slices.Delete(x.members, 1, 2), 10
			ask(x, "n2", func(r *evidence) { r.bootID, r.seen = x.nodes[1].BootID, 10 })
		}, ""},
		{"a worker knows more than is applied so far", func(x *stranded) {
			x.members = slices.Delete(x.members, 1, 2)
			ask(x, "n2", func(r *evidence) { r.bootID, r.seen = x.nodes[1].BootID, 11 })
		}, ""},
		{"a worker may have heard more since it asked", func(x *stranded) {
			x.members = slices.Delete(x.members, 1, 2)
			ask(x, "n2", func(r *evidence) { r.bootID, r.age, r.first = x.nodes[1].BootID, 20*time.Second, time.Hour })
			ask(x, "n3", func(r *evidence) { r.first = 10 * time.Second })
		}, "since the others restarted"},
		{"a worker asked after the others restarted", func(x *stranded) {
			x.members = slices.Delete(x.members, 1, 2)
			ask(x, "n2", func(r *evidence) { r.bootID, r.age, r.first = x.nodes[1].BootID, 5*time.Second, time.Hour })
			ask(x, "n3", func(r *evidence) { r.first = 10 * time.Second })
		}, ""},
		{"another machine of the name", func(x *stranded) { ask(x, "n3", func(r *evidence) { r.machineID = "machine-x" }) }, "another one"},
		{"one has not promised", func(x *stranded) { ask(x, "n3", func(r *evidence) { r.pledged = false }) }, "promised to follow n1"},
		{"one has gone again", func(x *stranded) { ask(x, "n3", func(r *evidence) { r.age = time.Minute }) }, "is it still on"},
		{"a worker runs on", func(x *stranded) {
			x.nodes = append(x.nodes, cluster.Node{Name: "n4", BootID: "44444444-a", State: cluster.NodeOnline})
		}, "n4 has not been seen to restart"},
		{"a lost node is not seen", func(x *stranded) { x.nodes[1].State = cluster.NodeLost; delete(x.asked, "n2") }, "n2 has not been seen"},
		{"a member of no node", func(x *stranded) { x.members = append(x.members, copyHolder{name: "n9.99999999"}) }, "n9 has a copy"},
		{"a voter without a name", func(x *stranded) { x.members = append(x.members, copyHolder{}) }, "without a name"},
		{"a learner that has not started", func(x *stranded) { x.members = append(x.members, copyHolder{learner: true}) }, ""},
		{"this node was declared lost", func(x *stranded) { x.nodes[0].State = cluster.NodeLost }, "not a member any more"},
		{"this node rebooted", func(x *stranded) { x.nodes[0].BootID = "other" }, "not a member any more"},
		{"this node was removed from the members", func(x *stranded) { x.voter = false }, "removed this node's member"},
		{"this node has no record", func(x *stranded) { x.nodes = x.nodes[1:] }, "no record"},
	} {
		x := alone()
		tc.change(&x)
		v := judge(x)
		switch {
		case tc.waits == "" && !v.restore:
			t.Errorf("%s: waits for %v, want restored", tc.name, v.waits)
		case tc.waits != "" && (v.restore || len(v.waits) != 1 || !strings.Contains(v.waits[0], tc.waits)):
			t.Errorf("%s: got %+v, want to wait for %q alone", tc.name, v, tc.waits)
		}
	}
	x := alone()
	x.without = time.Second
	if v := judge(x); v.restore || v.waits != nil {
		t.Errorf("a second without a leader is an election: got %+v", v)
	}
}

// Whatever is known: it is never restored before every node has promised itself to this boot, nor while a
// voter that the ledger knows may be alive.
func TestJudgeNeverGuesses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := alone()
		x.without = time.Duration(rapid.IntRange(0, 60).Draw(t, "without")) * time.Second
		x.voter = rapid.Bool().Draw(t, "voter")
		boots := rapid.SampledFrom([]string{"old", "new"})
		x.nodes, x.members, x.asked = x.nodes[:1], x.members[:1], map[string]evidence{}
		for i := range rapid.IntRange(0, 6).Draw(t, "others") {
			name := fmt.Sprintf("m%d", i)
			n := cluster.Node{Name: name, MachineID: "machine-" + name, BootID: "old", State: rapid.SampledFrom([]cluster.NodeState{cluster.NodeOnline, cluster.NodeLost, cluster.NodeJoining}).Draw(t, "state")}
			if rapid.Bool().Draw(t, "node") {
				x.nodes = append(x.nodes, n)
			}
			if rapid.Bool().Draw(t, "member") {
				x.members = append(x.members, copyHolder{name + "." + boots.Draw(t, "member's boot"), rapid.Bool().Draw(t, "learner")})
			}
			if rapid.Bool().Draw(t, "asked") {
				x.asked[name] = evidence{machineID: rapid.SampledFrom([]string{n.MachineID, "other"}).Draw(t, "machine"), bootID: boots.Draw(t, "boot"),
					pledged: rapid.Bool().Draw(t, "pledged"), age: time.Duration(rapid.IntRange(0, 60).Draw(t, "age")) * time.Second}
			}
		}
		v := judge(x)
		if v.restore && len(v.waits) > 0 {
			t.Fatalf("restores and waits: %v", v.waits)
		}
		if !v.restore {
			return
		}
		follows := func(node string) bool {
			e, ok := x.asked[node]
			return ok && e.pledged && e.age <= freshFor && e.machineID == "machine-"+node
		}
		if x.without < x.after || !x.voter {
			t.Fatalf("restored after %s, voter %v", x.without, x.voter)
		}
		for _, n := range x.nodes[1:] {
			if !follows(n.Name) {
				t.Fatalf("restored while %+v does not follow: %+v", n, x.asked[n.Name])
			}
		}
		for _, m := range x.members[1:] {
			node, boot, _ := splitMemberName(m.name)
			if !follows(node) || !m.learner && x.asked[node].bootID == boot || !slices.ContainsFunc(x.nodes, func(n cluster.Node) bool { return n.Name == node }) {
				t.Fatalf("restored while member %+v may vote: %+v", m, x.asked[node])
			}
		}
	})
}
