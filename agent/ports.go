package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cabling"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/pathmtu"
)

// This file tells the others what this node sees of its ports and cables (package cabling).

const (
	// faultSettle is how long something must have been wrong with the cabling to be told: cables are moved one
	// after the other, and switches do not all speak at once.
	faultSettle = 3 * time.Second
	// portsPause is the least time between two records of ports.
	portsPause = time.Second
	// mostPortNews are told of one port within portNewsWindow.
	mostPortNews   = 12
	portNewsWindow = time.Minute
	// portsCommit bounds the wait for the ledger.
	portsCommit = 5 * time.Second
)

// ports follows the ports of this machine, a member or not.
type ports struct {
	log     *slog.Logger
	watcher *cabling.Watcher // nil: the kernel did not let us
	changed chan struct{}    // holds one wake-up
	prober  atomic.Pointer[pathmtu.Prober]
}

func (a *Agent) openPorts() {
	a.ports = &ports{log: a.log, changed: make(chan struct{}, 1)}
	var err error
	a.ports.watcher, err = cabling.Watch(cabling.Config{
		Log:      a.log.With("part", "cabling"),
		Self:     cabling.Identity{MachineID: a.id.MachineID, Name: a.id.Name, Software: a.opts.Version},
		OnChange: func([]cluster.EthernetPort) { wake(a.ports.changed) },
	})
	if err != nil {
		a.log.Warn("the cabling of this node is not watched", "err", err)
	}
}

// close ends it. An agent that is about to be back does not say goodbye to the switches.
func (p *ports) close(ordered func() bool) {
	if p.watcher != nil {
		p.watcher.Close(ordered())
	}
}

func (p *ports) list() []cluster.EthernetPort {
	if p.watcher == nil {
		return nil
	}
	return p.watcher.Ports()
}

// keepPorts keeps this node's record of its ports as they are, and tells what happens to them.
func (p *parts) keepPorts(ctx context.Context) {
	w := p.a.ports.watcher
	if w == nil {
		return
	}
	if old := p.state.Load().PortsOf(p.a.id.Name); old != nil && old.BootID == p.a.id.BootID {
		w.Remember(old.Ports)
	}
	k := portsKeeper{since: map[string]time.Time{}, told: map[string][]time.Time{}}
	retry := time.NewTicker(portsPause)
	defer retry.Stop()
	for {
		var again <-chan time.Time
		if pending := p.keepPortsOnce(ctx, &k, time.Now()); pending {
			again = retry.C
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
			continue
		case <-p.a.ports.changed:
		}
		// What comes meanwhile is told with it.
		if wait := portsPause - time.Since(k.wrote); wait > 0 && !k.wrote.IsZero() {
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
	}
}

// LocalNet is how this node's ports and links are now (api.Net).
func (p *parts) LocalNet(ctx context.Context) api.NodeNet {
	out := api.NodeNet{Node: p.a.id.Name, Live: true, Ports: p.a.ports.list(), Links: []api.NetLink{}}
	st := p.state.Load()
	me := st.Node(p.a.id.Name)
	if me == nil {
		out.Live, out.Error = false, "this node is not in its copy of the ledger yet"
		return out
	}
	out.State = me.State
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got := make(chan member.View, 1)
	if err := p.a.loop.ask(ctx, func(b *node.Brain) { got <- b.View() }); err != nil {
		out.Live, out.Error = false, "the goroutine of the heartbeats did not answer: "+err.Error()
		return out
	}
	own := p.a.links.List()
	for _, peer := range (<-got).Peers {
		theirs := st.Node(peer.Name)
		for _, l := range peer.Links {
			link := api.NetLink{Link: l.Link, Peer: peer.Name, Receiving: l.Receiving, Sending: l.Sending, LossPercent: l.LossPercent,
				RTTMs: float64(l.RTT.Microseconds()) / 1000, Flapping: l.Flapping, Lost: !peer.Alive}
			if theirs != nil {
				for _, t := range theirs.Links {
					if ours := sameSubnet(own, t.Addr); ours != nil && ours.Name == l.Link {
						link.PeerLink = t.Name
					}
				}
			}
			out.Links = append(out.Links, link)
		}
	}
	slices.SortStableFunc(out.Links, func(a, b api.NetLink) int { return strings.Compare(a.Link, b.Link) })
	return out
}

// portsKeeper is what is remembered between two records.
type portsKeeper struct {
	wrote time.Time
	since map[string]time.Time   // fault -> since when it is there
	told  map[string][]time.Time // port -> when something was told of it, within portNewsWindow
}

// keepPortsOnce writes the record if it is not as it should be. It tells whether there is something left to do that
// nobody will wake it for.
func (p *parts) keepPortsOnce(ctx context.Context, k *portsKeeper, at time.Time) (pending bool) {
	st := p.state.Load()
	me := st.Node(p.a.id.Name)
	list := p.a.ports.list()
	if me == nil || me.BootID != p.a.id.BootID || len(list) == 0 {
		return false // the ledger will show it, and the watcher
	}
	old := st.PortsOf(p.a.id.Name)
	next := cluster.NodePorts{Node: me.Name, BootID: me.BootID, Ports: list}
	faults := cabling.Faults(&next, st)
	if prober := p.a.ports.prober.Load(); prober != nil {
		faults = append(faults, pathFaults(me.Name, prober.Limits(), &next, st)...)
	}
	next.Faults, pending = k.settled(faults, old, at)
	if old != nil && sameRecord(old, &next) {
		return pending
	}
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: me.Key(), Revision: me.Revision}, {Key: next.Key(), Revision: revisionOf(st, me.Name)}},
		Puts:       []cluster.Put{{Key: next.Key(), Value: next}},
	}
	news := k.allow(cabling.News(old, &next), at)
	for _, n := range news {
		t.Events = append(t.Events, cluster.Event{Time: at, Node: me.Name, Kind: cluster.EventLink, Subject: me.Name, Text: n.Text, Why: n.Why})
	}
	cctx, cancel := context.WithTimeout(ctx, portsCommit)
	defer cancel()
	switch _, ok, err := p.store.Commit(cctx, t); {
	case err != nil && ctx.Err() == nil:
		p.a.log.Debug("what this node sees of its ports is not told yet", "err", err)
		return true
	case !ok:
		return true // somebody else has changed the node, or our own write is not seen here yet
	}
	k.wrote = at
	for _, n := range news {
		k.told[n.Port] = append(k.told[n.Port], at)
	}
	return pending
}

// revisionOf is that of the record under the node's name, of whatever boot; 0 if there is none.
func revisionOf(st *cluster.State, node string) int64 {
	for i := range st.Ports {
		if st.Ports[i].Node == node {
			return st.Ports[i].Revision
		}
	}
	return 0
}

func sameRecord(a, b *cluster.NodePorts) bool {
	x, err := json.Marshal(a)
	if err != nil {
		return false
	}
	y, err := json.Marshal(b)
	return err == nil && bytes.Equal(x, y)
}

// settled are the faults that have been there for long enough, or are in the record already. pending: there are others.
func (k *portsKeeper) settled(faults []string, old *cluster.NodePorts, at time.Time) (out []string, pending bool) {
	for f := range k.since {
		if !slices.Contains(faults, f) {
			delete(k.since, f)
		}
	}
	for _, f := range faults {
		if _, ok := k.since[f]; !ok {
			k.since[f] = at
		}
		if old != nil && slices.Contains(old.Faults, f) || at.Sub(k.since[f]) >= faultSettle {
			out = append(out, f)
		} else {
			pending = true
		}
	}
	return out, pending
}

// allow leaves out what is too much of one port: a loose cable must not push all else out of the ledger's events.
func (k *portsKeeper) allow(news []cabling.Piece, at time.Time) []cabling.Piece {
	count := map[string]int{}
	for port, told := range k.told {
		k.told[port] = slices.DeleteFunc(told, func(t time.Time) bool { return at.Sub(t) >= portNewsWindow })
		count[port] = len(k.told[port])
	}
	var out []cabling.Piece
	for _, n := range news {
		count[n.Port]++
		switch c := count[n.Port]; {
		case c > mostPortNews:
			continue
		case c == mostPortNews:
			of := "the cabling"
			if n.Port != "" {
				of = n.Port
			}
			n.Text += fmt.Sprintf("; no more is told of %s for now", of)
		}
		out = append(out, n)
	}
	return out
}
