package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/pid1"
	"github.com/skein-os/skein/agent/pid1/control"
)

// Bequeath leaves the brain's will with PID 1. The brain does not wait for PID 1: a goroutine carries it.
func (w *world) Bequeath(b node.Bequest) {
	will := pid1Will(b)
	select { // the newest is what counts; this is the only sender
	case <-w.wills:
	default:
	}
	w.wills <- will
}

// Bind and Unbind go to PID 1 by a goroutine too.
func (w *world) Bind(until time.Duration) { w.leaveBinding(until) }
func (w *world) Unbind()                  { w.leaveBinding(0) }

func (w *world) leaveBinding(until time.Duration) {
	select { // the newest is what counts; this is the only sender
	case <-w.bindings:
	default:
	}
	w.bindings <- until
}

// machineWatchdog is what PID 1 found, nil if there is none that can be relied on.
func machineWatchdog(runDir string) (*cluster.Watchdog, error) {
	data, err := os.ReadFile(filepath.Join(runDir, filepath.Base(pid1.ReportPath)))
	if err != nil {
		return nil, fmt.Errorf("which watchdog this machine has: %w", err)
	}
	var r pid1.Report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("which watchdog this machine has: %w", err)
	}
	if r.Watchdog == "" || r.WatchdogTimeoutS <= 0 {
		return nil, nil
	}
	return &cluster.Watchdog{Identity: r.Watchdog, Timeout: time.Duration(r.WatchdogTimeoutS) * time.Second, Software: r.Watchdog == pid1.Softdog}, nil
}

// renouncedFile marks a boot that has said farewell: it holds no address any more, and no agent of it is a member.
const renouncedFile = "renounced.json"

// Renounce implements node.World. The mark comes first: whatever happens then, no later agent opens the guard.
func (w *world) Renounce() bool {
	err := w.a.store(renouncedFile, renounced{BootID: w.a.id.BootID})
	// Closed in any case: this boot is being stopped.
	if err = errors.Join(err, w.balancer.Hold(nil, 0)); err != nil {
		w.a.log.Error("the others have to wait for the end of this node's lease", "err", err)
	}
	return err == nil
}

type renounced struct{ BootID string }

// errRenounced ends an agent that must not be a member.
var errRenounced = errors.New("an earlier agent of this boot has said farewell to the cluster, for the node was being stopped: only a new boot can join again")

// mayJoin refuses a boot that has said farewell. A mark that cannot be read counts as one.
func (a *Agent) mayJoin() error {
	data, err := os.ReadFile(a.path(renouncedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var r renounced
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return fmt.Errorf("whether this boot has said farewell to the cluster: %w", err)
	}
	if r.BootID == a.id.BootID {
		return errRenounced
	}
	return nil
}

// pid1Will puts datagrams into the form that PID 1 sends. What is beyond its bounds is left out: those
// peers hear from the others that the node is not to be suspected.
func pid1Will(b node.Bequest) control.Will {
	datagrams := b.Restarts
	w := control.Will{PatienceMS: min(b.Patience, control.MaxWillPatience).Milliseconds()}
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
	// Last words go where the will goes. What is said is the same to all peers of a link.
	words := func(list []member.Datagram, to func(*control.WillLink) *[]byte) {
		for _, d := range list {
			if i, ok := at[d.Link]; ok && len(d.Payload) <= control.MaxWillWords {
				*to(&w.Links[i]) = d.Payload
			}
		}
	}
	words(b.Stopped, func(l *control.WillLink) *[]byte { return &l.Stopped })
	words(b.Failed, func(l *control.WillLink) *[]byte { return &l.Failed })
	return w
}

// leaveWills carries wills and bindings to PID 1.
func (p *parts) leaveWills(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case will := <-p.wills:
			if err := p.a.opts.PID1.SetWill(will); err != nil && ctx.Err() == nil {
				p.a.log.Warn("if this agent ends, the others will take the node for dead", "err", err)
			}
		case until := <-p.bindings:
			tell := p.a.opts.PID1.Unbind
			if until > 0 {
				tell = func() error { return p.a.opts.PID1.Bind(until) }
			}
			if err := tell(); err != nil && ctx.Err() == nil {
				p.a.log.Warn("PID 1 was not told until when to feed the watchdog", "err", err)
			}
		}
	}
}
