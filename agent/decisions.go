package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
	"github.com/skein-os/skein/agent/replay"
	"github.com/skein-os/skein/agent/store"
)

const (
	// recordAfter is how long a record of a decision waits, so that what the decision set in motion has the
	// processor and the ledger to itself. A coordinator that dies within it takes the record along.
	recordAfter = time.Second
	// trimEvery is after how many records the oldest are looked for and deleted.
	trimEvery = 16
	// mostDecisions wait for their record; a cluster that decides faster than it can write leaves some out.
	mostDecisions = 64
)

// decided takes a decision from the brain's goroutine, which waits for nothing.
func (p *parts) decided(d node.Decided) {
	select {
	case p.decisions <- d:
	default:
		p.unrecorded.Add(1)
	}
}

// recordDecisions writes what this coordinator decided into the ledger, beside the decisions.
func (p *parts) recordDecisions(ctx context.Context) {
	for written := 0; ; {
		var d node.Decided
		select {
		case <-ctx.Done():
			return
		case d = <-p.decisions:
		}
		timer := time.NewTimer(recordAfter - min(time.Since(d.Wall), recordAfter))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if n := p.unrecorded.Swap(0); n > 0 {
			p.a.log.Warn("decisions came faster than they could be recorded", "left_out", n)
		}
		if err := p.record(ctx, d); err != nil {
			if ctx.Err() == nil {
				p.a.log.Warn("a decision is not recorded; it is in the events all the same", "err", err)
			}
			continue
		}
		if written++; written%trimEvery == 1 {
			if err := p.trimDecisions(ctx); err != nil && ctx.Err() == nil {
				p.a.log.Warn("old decisions stay in the ledger for now", "err", err)
			}
		}
	}
}

// record writes one decision under the first number that is free: several may be made from one revision, by
// several coordinators too.
func (p *parts) record(ctx context.Context, d node.Decided) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for n := 1; n < 1000; n++ {
		r, err := replay.New(d, n)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%s%020d.%04d", replay.KeyDecisions, r.Revision, n)
		_, ok, err := p.store.Commit(ctx, cluster.Txn{
			Conditions: []cluster.Condition{{Key: key}}, Puts: []cluster.Put{{Key: key, Value: r}},
		})
		if err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("a thousand decisions were made from revision %d", d.Snapshot.State.Revision)
}

// trimDecisions deletes the oldest beyond what is kept.
func (p *parts) trimDecisions(ctx context.Context) error {
	list, err := p.store.List(ctx, replay.KeyDecisions)
	if err != nil {
		return err
	}
	old := expired(list, replay.Kept, replay.KeptBytes)
	for len(old) > 0 {
		some := old[:min(len(old), 100)] // etcd's limit of a transaction is 128
		old = old[len(some):]
		if _, _, err := p.store.Commit(ctx, cluster.Txn{Deletes: some}); err != nil {
			return err
		}
	}
	return nil
}

// expired are the keys of a list, oldest first, that are beyond the newest so many and so many bytes.
func expired(list []store.Entry, most, bytes int) []string {
	var out []string
	for i := len(list) - 1; i >= 0; i-- {
		bytes -= len(list[i].Data)
		if most--; most < 0 || bytes < 0 {
			for _, e := range list[:i+1] {
				out = append(out, e.Key)
			}
			break
		}
	}
	return out
}

// Decisions are the recorded decisions, oldest first.
func (b *backend) Decisions(ctx context.Context) ([]replay.Record, error) {
	list, err := b.store.List(ctx, replay.KeyDecisions)
	if err != nil {
		return nil, err
	}
	out := make([]replay.Record, 0, len(list))
	for _, e := range list {
		r, err := replay.Decode(e.Data)
		if err != nil {
			b.a.log.Warn("unreadable decision is ignored", "key", e.Key, "err", err)
			continue
		}
		out = append(out, r)
	}
	return out, nil
}

// Snapshot is what a plan made here and now would depend on.
func (b *backend) Snapshot(ctx context.Context) (plan.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got := make(chan plan.Snapshot, 1)
	if err := b.a.loop.ask(ctx, func(br *node.Brain) { got <- br.Snapshot() }); err != nil {
		return plan.Snapshot{}, fmt.Errorf("ask this node what it hears: %w", err)
	}
	return <-got, nil
}

// Times are the cluster's times of heartbeats and leases.
func (b *backend) Times() member.Config {
	cfg := member.DefaultConfig()
	cfg.Silent, cfg.Lease = silent, lease
	return cfg
}
