package cluster

import "fmt"

// MayCut tells whether by, in its boot byBoot, is the one to cut the power of that boot of a node, from the node's
// record and that of its fencing. Records that are not there may be nil or empty.
func MayCut(n *Node, f *Fence, boot, by, byBoot string) error {
	switch {
	case n == nil || n.Name == "":
		return fmt.Errorf("the node is not in the ledger any more")
	case boot == "" || n.BootID != boot:
		return fmt.Errorf("%s is in another boot (%.8s) than the one to cut (%.8s)", n.Name, n.BootID, boot)
	case n.State != NodeLost:
		return fmt.Errorf("%s is not lost, but %s", n.Name, n.State)
	case f == nil || f.BootID != boot:
		return fmt.Errorf("nobody fences this boot of %s", n.Name)
	case f.By != by || f.ByBoot != byBoot:
		return fmt.Errorf("%s fences %s by now", f.By, n.Name)
	case f.State == FenceOff:
		return fmt.Errorf("%s is known to be off", n.Name)
	}
	return nil
}
