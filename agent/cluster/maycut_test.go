package cluster

import "testing"

func TestMayCut(t *testing.T) {
	for name, c := range map[string]struct {
		change func(n *Node, f *Fence)
		ok     bool
	}{
		"all as it was":              {func(*Node, *Fence) {}, true},
		"a round has failed":         {func(_ *Node, f *Fence) { f.State = FenceFailed }, true},
		"the machine is back":        {func(n *Node, _ *Fence) { n.BootID, n.State = "b2", NodeOnline }, false},
		"back, and lost again":       {func(n *Node, _ *Fence) { n.BootID = "b2" }, false},
		"removed":                    {func(n *Node, _ *Fence) { *n = Node{} }, false},
		"no record":                  {func(_ *Node, f *Fence) { *f = Fence{} }, false},
		"another coordinator has it": {func(_ *Node, f *Fence) { f.By = "n2" }, false},
		"our own earlier boot":       {func(_ *Node, f *Fence) { f.ByBoot = "a0" }, false},
		"proven off":                 {func(_ *Node, f *Fence) { f.State = FenceOff }, false},
	} {
		n := Node{Name: "n3", BootID: "b1", State: NodeLost}
		f := Fence{Node: "n3", BootID: "b1", By: "n1", ByBoot: "a1", State: FenceRunning}
		c.change(&n, &f)
		if err := MayCut(&n, &f, "b1", "n1", "a1"); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want allowed %v", name, err, c.ok)
		}
	}
	if MayCut(nil, nil, "b1", "n1", "a1") == nil {
		t.Error("allowed without any record")
	}
}
