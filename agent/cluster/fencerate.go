package cluster

import (
	"fmt"
	"slices"
	"time"
)

// The limit of fencing: machines that run are switched off at most as often within FenceWindow as the cluster has
// members, FenceLeast times at least. A cluster that would go on for ever switching its machines off and on, for a reason that
// nobody thought of, ends that by itself and says so. A machine that is found off is not counted: nothing is done to it.
const (
	FenceWindow = 10 * time.Minute
	FenceLeast  = 4
)

// FenceRate is how often machines were switched off by their controllers lately. Its times are counted as Trouble's are: by
// the coordinator, on its own clock, and credited in steps. What is not credited makes the window longer, never shorter.
type FenceRate struct {
	// Ago is how long ago an order to switch off was given, newest first, of those within FenceWindow.
	Ago []time.Duration `json:"ago_ns"`

	Revision int64 `json:"-"`
}

// Note adds an order that is given now.
func (r FenceRate) Note() FenceRate {
	r.Ago = slices.Insert(slices.Clone(r.Ago), 0, 0)
	return r
}

// Pass lets time pass.
func (r FenceRate) Pass(d time.Duration) FenceRate {
	var ago []time.Duration
	for _, a := range r.Ago {
		if a+d <= FenceWindow {
			ago = append(ago, a+d)
		}
	}
	r.Ago = ago
	return r
}

// Hold is why none may be given now in a cluster of so many members, a clause; empty: one may.
func (r FenceRate) Hold(members int) string {
	most := max(FenceLeast, members)
	if len(r.Ago) < most {
		return ""
	}
	left := FenceWindow - r.Ago[most-1]
	return fmt.Sprintf("%d machines were within %v, which is as many as the cluster may by itself; the next one in %v", len(r.Ago), FenceWindow, left.Round(time.Second))
}
