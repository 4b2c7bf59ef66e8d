package agent

import (
	"context"
	"time"

	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/pid1/control"
)

// Bequeath leaves the brain's will with PID 1. The brain does not wait for PID 1: a goroutine carries it.
func (w *world) Bequeath(datagrams []member.Datagram, patience time.Duration) {
	will := pid1Will(datagrams, patience)
	select { // the newest is what counts; this is the only sender
	case <-w.wills:
	default:
	}
	w.wills <- will
}

// pid1Will puts datagrams into the form that PID 1 sends. What is beyond its bounds is left out: those
// peers hear from the others that the node is not to be suspected.
func pid1Will(datagrams []member.Datagram, patience time.Duration) control.Will {
	w := control.Will{PatienceMS: min(patience, control.MaxWillPatience).Milliseconds()}
	at := map[string]int{}
	for _, d := range datagrams[:min(len(datagrams), control.MaxWillTargets)] {
		i, ok := at[d.Link]
		if !ok {
			if len(w.Links) == control.MaxWillLinks || len(d.Payload) > control.MaxWillPayload {
				continue
			}
			i = len(w.Links)
			at[d.Link] = i
			w.Links = append(w.Links, control.WillLink{Link: d.Link, Payload: d.Payload})
		}
		w.Links[i].To = append(w.Links[i].To, d.To)
	}
	return w
}

// leaveWills carries wills to PID 1.
func (p *parts) leaveWills(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case will := <-p.wills:
			if err := p.a.opts.PID1.SetWill(will); err != nil && ctx.Err() == nil {
				p.a.log.Warn("if this agent ends, the others will take the node for dead", "err", err)
			}
		}
	}
}
