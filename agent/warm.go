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
	// warmRetry is the wait after containers could not be made ahead.
	warmRetry = 5 * time.Second
)

// keepWarm makes containers ahead for the instances that would come here if another node were lost: a
// takeover then starts nothing that could have been ready.
func (p *parts) keepWarm(ctx context.Context) {
	timer := time.NewTimer(warmDelay)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.warming:
			timer.Reset(warmDelay)
			continue
		case <-timer.C:
		}
		st := p.state.Load()
		if p.starting(st) {
			timer.Reset(warmDelay)
			continue
		}
		heirs := slices.DeleteFunc(plan.Heirs(st, p.a.id.Name), func(in cluster.Instance) bool {
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
		}
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
