package agent

import (
	"context"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/plan"
)

const (
	// warmDelay is how long the ledger must be quiet before containers are made ahead: a takeover that is
	// going on needs the processor more.
	warmDelay = time.Second
	// warmMost is how long a ledger that is never quiet may keep it waiting.
	warmMost = 4 * time.Second
	// warmRetry is the wait after containers could not be made ahead.
	warmRetry = 5 * time.Second
)

// keepWarm makes containers ahead for the instances that would come here if another node were lost: a
// takeover then starts nothing that could have been ready. Only then does a node that has just joined count as
// ready.
func (p *parts) keepWarm(ctx context.Context) {
	select { // what an earlier agent made ahead is removed first
	case <-p.runner.Adopted():
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(warmDelay)
	defer timer.Stop()
	var waiting time.Time // since when there may be something to do
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.warming:
			if waiting.IsZero() {
				waiting = time.Now()
			}
			timer.Reset(max(0, min(warmDelay, warmMost-time.Since(waiting))))
			continue
		case <-timer.C:
		}
		waiting = time.Time{}
		st := p.state.Load()
		if p.starting(st) {
			timer.Reset(warmDelay)
			continue
		}
		all := !slices.ContainsFunc(st.Images, func(im cluster.Image) bool {
			_, err := p.images.Find(im.Ref, im.Digest)
			return err != nil
		})
		heirs := slices.DeleteFunc(plan.Heirs(asReady(st, p.a.id.Name), p.a.id.Name), func(in cluster.Instance) bool {
			_, err := p.images.Find(in.Spec.Image, in.Spec.ImageDigest)
			return err != nil // fetchImages is at it, and wakes us
		})
		// If there are too many, those whose loss is seen at an address come first.
		slices.SortStableFunc(heirs, func(a, b cluster.Instance) int {
			return len(b.Spec.Floating) - len(a.Spec.Floating)
		})
		if err := p.runtime.Warm(ctx, heirs); err != nil && ctx.Err() == nil {
			p.a.log.Warn("a takeover by this node would take longer than it need", "err", err)
			timer.Reset(warmRetry)
			continue
		}
		if all {
			p.ready(ctx)
		}
	}
}

// asReady is the state in which this node counts as ready: what it would inherit then.
func asReady(st *cluster.State, self string) *cluster.State {
	i := slices.IndexFunc(st.Nodes, func(n cluster.Node) bool { return n.Name == self })
	if i < 0 || !st.Nodes[i].Fetching {
		return st
	}
	out := *st
	out.Nodes = slices.Clone(st.Nodes)
	out.Nodes[i].Fetching = false
	return &out
}

// ready records that this node has all images and containers made ahead, if it was noted for not having them.
// If the ledger does not take it, the next round tries again.
func (p *parts) ready(ctx context.Context) {
	n := p.state.Load().Node(p.a.id.Name)
	if n == nil || n.BootID != p.a.id.BootID || !n.Fetching {
		return
	}
	next := *n
	next.Fetching = false
	if _, _, err := p.store.Commit(ctx, cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
		Puts:       []cluster.Put{{Key: n.Key(), Value: next}},
		Events: []cluster.Event{{Time: time.Now(), Node: n.Name, Kind: cluster.EventNode, Subject: n.Name,
			Text: n.Name + " has all images of the cluster", Why: "it fetched them from the others after it had joined, and has made ready what it may have to take over"}},
	}); err != nil && ctx.Err() == nil {
		p.a.log.Warn("the ledger does not know yet that this node is ready", "err", err)
	}
}

// starting tells whether an instance of this node does not run yet.
func (p *parts) starting(st *cluster.State) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(st.Instances, func(in cluster.Instance) bool {
		s, ok := p.local[in.ID]
		return in.Node == p.a.id.Name && in.BootID == p.a.id.BootID && ok && s.State != cluster.InstanceRunning
	})
}
