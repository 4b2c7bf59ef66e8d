package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/fence"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/store"
)

// Power has a power controller do something (node.World). The outcome goes back into the loop, always.
func (w *world) Power(name string, c fence.Command) {
	w.a.wg.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, c.Within)
		defer cancel()
		still := func(ctx context.Context) error { return w.stillToCut(ctx, name, c.Boot) }
		if c.Do != fence.Cut {
			still = func(context.Context) error { return nil }
		}
		p, err := w.operate(ctx, name, c.Way, c.Do, still)
		a := fence.Answer{ID: c.ID, Power: p}
		if err != nil {
			a.Err = err.Error()
		}
		w.a.log.Info("power controller", "node", name, "action", c.Do, "way", c.Way, "power", p, "err", err)
		w.a.loop.must(w.ctx, func(b *node.Brain) { b.Powered(a) })
	})
}

// stillToCut looks, just before the order, whether the machine is still in the boot that is to be cut and this node
// still the one to do it: what the ledger says now, by a majority, and what is heard. What is left of the race is the
// time from here to the controller's relay. A new boot that it hits is lost as by any power cut: the proof that the
// old one is off bears the old boot's id and counts for no other.
func (p *parts) stillToCut(ctx context.Context, name, boot string) error {
	var n cluster.Node
	var rec cluster.Fence
	for _, r := range []struct {
		key  string
		into any
	}{{(&cluster.Fence{Node: name}).Key(), &rec}, {(&cluster.Node{Name: name}).Key(), &n}} {
		if _, err := p.store.Get(ctx, r.key, r.into); err != nil {
			return fmt.Errorf("whether %s is still to be cut: %w", name, err)
		}
	}
	if err := cluster.MayCut(&n, &rec, boot, p.a.id.Name, p.a.id.BootID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got := make(chan error, 1)
	if err := p.a.loop.ask(ctx, func(b *node.Brain) { got <- b.MayCut(name, boot) }); err != nil {
		return fmt.Errorf("whether %s is still to be cut: %w", name, err)
	}
	return <-got
}

// operate reads the controller's password from the ledger for this one action: it is kept nowhere else.
func (p *parts) operate(ctx context.Context, name string, way int, do fence.Action, still func(context.Context) error) (fence.Power, error) {
	bmc := p.state.Load().BMC(name)
	if bmc == nil || way < 0 || way >= len(bmc.Addresses) {
		return fence.Unknown, fmt.Errorf("%s has no such way to a power controller any more", name)
	}
	password, err := p.store.Secret(ctx, cluster.BMCSecret(name))
	if err != nil && !errors.Is(err, store.ErrNoSecret) {
		return fence.Unknown, fmt.Errorf("password of the power controller: %w", err)
	}
	ways, _ := fence.Ways(bmc, string(password))
	return fence.OperateIf(ctx, ways[way], do, still)
}

// ReadPower asks a node's power controller for its power, by one of its ways.
func (b *backend) ReadPower(ctx context.Context, name string, way int) (string, error) {
	p, err := b.operate(ctx, name, way, fence.Read, nil)
	return string(p), err
}
