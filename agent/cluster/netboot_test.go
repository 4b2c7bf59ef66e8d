package cluster

import (
	"net"
	"slices"
	"testing"
)

func TestNetbootServers(t *testing.T) {
	s := &State{Netboot: &NetbootRecord{}, Nodes: []Node{
		{Name: "a", Number: 5, State: NodeOnline}, {Name: "b", Number: 1, State: NodeLost}, {Name: "c", Number: 2, State: NodeOnline, Witness: true},
		{Name: "d", Number: 3, State: NodeDrained}, {Name: "e", Number: 4, State: NodeOnline}, {Name: "f", Number: 6, State: NodeOnline},
		{Name: "g", Number: 7, State: NodeOnline, Leaving: &Leave{}}, {Name: "h", Number: 8, State: NodeJoining},
	}}
	names := func(list []*Node) (out []string) {
		for _, n := range list {
			out = append(out, n.Name)
		}
		return out
	}
	if got, want := names(s.NetbootServers()), []string{"d", "e", "a"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.Nodes[4].State = NodeLost
	if got, want := names(s.NetbootServers()), []string{"d", "a", "f"}; !slices.Equal(got, want) {
		t.Errorf("without e: got %v, want %v", got, want)
	}
	s.Netboot = nil
	if got := s.NetbootServers(); got != nil {
		t.Errorf("not enabled: got %v", names(got))
	}
}

// Each of three is the first for its share of machines, and the loss of one moves nothing among the two others.
func TestNetbootOrder(t *testing.T) {
	a, b, c := &Node{Name: "a"}, &Node{Name: "b"}, &Node{Name: "c"}
	first := map[string]int{}
	for i := range 300 {
		mac := net.HardwareAddr{0x52, 0x54, 0, 0, byte(i >> 8), byte(i)}
		order := NetbootOrder([]*Node{a, b, c}, mac)
		if again := NetbootOrder([]*Node{c, a, b}, mac); !slices.Equal(order, again) {
			t.Fatalf("%s: the order depends on who asks: %v, %v", mac, order, again)
		}
		first[order[0].Name]++
		rest := slices.DeleteFunc(slices.Clone(order), func(n *Node) bool { return n == b })
		if got := NetbootOrder([]*Node{a, c}, mac); !slices.Equal(got, rest) {
			t.Errorf("%s without b: got %v, want %v", mac, got, rest)
		}
	}
	for _, n := range []string{"a", "b", "c"} {
		if first[n] < 60 {
			t.Errorf("%s is the first for %d of 300 machines", n, first[n])
		}
	}
}

func TestNetbootRecordCheck(t *testing.T) {
	good := NetbootFile{Name: "bzImage", Digest: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Size: 1}
	for _, tc := range []struct {
		name   string
		change func(*NetbootRecord)
		ok     bool
	}{
		{"good", func(*NetbootRecord) {}, true},
		{"no port", func(r *NetbootRecord) { r.Port = 0 }, false},
		{"a second line for iPXE", func(r *NetbootRecord) { r.Cmdline = "quiet\nshell" }, false},
		{"a path", func(r *NetbootRecord) { r.Files[0].Name = "../etc" }, false},
		{"a path as digest", func(r *NetbootRecord) { r.Files[0].Digest = "../../etc/passwd" }, false},
		{"empty", func(r *NetbootRecord) { r.Files[0].Size = 0 }, false},
		{"too large", func(r *NetbootRecord) { r.Files[0].Size = MaxNetbootFile + 1 }, false},
	} {
		r := &NetbootRecord{Port: 80, Cmdline: "quiet", Files: []NetbootFile{good}}
		tc.change(r)
		if err := r.Check(); (err == nil) != tc.ok {
			t.Errorf("%s: got %v, want ok: %v", tc.name, err, tc.ok)
		}
	}
}
