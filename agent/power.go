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
		p, err := w.operate(ctx, name, c.Way, c.Do)
		a := fence.Answer{ID: c.ID, Power: p}
		if err != nil {
			a.Err = err.Error()
		}
		w.a.log.Info("power controller", "node", name, "action", c.Do, "way", c.Way, "power", p, "err", err)
		w.a.loop.must(w.ctx, func(b *node.Brain) { b.Powered(a) })
	})
}

// operate reads the controller's password from the ledger for this one action: it is kept nowhere else.
func (p *parts) operate(ctx context.Context, name string, way int, do fence.Action) (fence.Power, error) {
	bmc := p.state.Load().BMC(name)
	if bmc == nil || way < 0 || way >= len(bmc.Addresses) {
		return fence.Unknown, fmt.Errorf("%s has no such way to a power controller any more", name)
	}
	password, err := p.store.Secret(ctx, cluster.BMCSecret(name))
	if err != nil && !errors.Is(err, store.ErrNoSecret) {
		return fence.Unknown, fmt.Errorf("password of the power controller: %w", err)
	}
	ways, _ := fence.Ways(bmc, string(password))
	return fence.Operate(ctx, ways[way], do)
}

// ReadPower asks a node's power controller for its power, by one of its ways.
func (b *backend) ReadPower(ctx context.Context, name string, way int) (string, error) {
	p, err := b.operate(ctx, name, way, fence.Read)
	return string(p), err
}
