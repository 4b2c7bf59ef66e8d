package agent

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/network"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/plan"
)

// world is the real node's node.World.
type world struct {
	*parts
	ctx context.Context
	via map[uint8]string // the link to each peer, as last set
}

// commitTimeout bounds a commit of the brain: it decides anew after that.
const commitTimeout = 2 * time.Second

func (w *world) Now() time.Duration { return balance.Now() }
func (w *world) Wall() time.Time    { return time.Now() }
func (w *world) Rand() uint64       { return rand.Uint64() }

// Frames counts what came in on the links, by the kernel's own counters.
func (w *world) Frames() uint64 {
	var sum uint64
	for _, l := range w.a.links.List() {
		sum += network.Received(l.Name)
	}
	return sum
}

func (w *world) Send(d member.Datagram) {
	defer w.slow("sending a heartbeat")()
	if err := w.a.hb.Send(d.Link, d.To, d.Payload); err != nil {
		w.a.log.Debug("heartbeat", "port", d.Link, "to", d.To, "err", err)
	}
}

func (w *world) Commit(id uint64, t cluster.Txn) {
	w.a.wg.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, commitTimeout)
		defer cancel()
		_, ok, err := w.store.Commit(ctx, t)
		if err != nil && w.ctx.Err() == nil {
			w.a.log.Warn("the ledger did not take a decision", "err", err)
		}
		w.a.loop.must(w.ctx, func(b *node.Brain) { b.Committed(id, ok, err) })
	})
}

func (w *world) Run(instances []cluster.Instance) {
	w.runner.Set(instances)
	for i := range instances {
		if in := instances[i]; node.CutOff(&in) {
			w.cutOff(in)
		}
	}
}

func (w *world) Quiet(peer string) {
	w.a.wg.Go(func() {
		list := slices.DeleteFunc(plan.HeirsOf(w.state.Load(), w.a.id.Name, peer), func(in cluster.Instance) bool {
			return !plan.StartsEarly(&in)
		})
		if len(list) == 0 {
			return
		}
		if err := w.runtime.Kindle(list); err != nil {
			w.a.log.Warn("a takeover by this node would take longer than it need", "err", err)
		}
		// If there is no takeover, what was started is replaced.
		select {
		case <-time.After(container.KindleKeep):
			wake(w.warming)
		case <-w.ctx.Done():
		}
	})
}

// slow reports what of the outside world held the brain up; call the result when it is done.
func (w *world) slow(what string) func() {
	began := balance.Now()
	return func() {
		if d := balance.Now() - began; d > heldUp/2 {
			w.a.log.Warn("slow", "what", what, "took", d.Round(time.Millisecond))
		}
	}
}

func (w *world) Hold(addrs []node.Floating, until time.Duration) bool {
	defer w.slow("holding floating addresses")()
	list := make([]netip.Addr, len(addrs))
	for i, f := range addrs {
		list[i] = f.Addr
	}
	err := w.balancer.Hold(list, until)
	if err != nil {
		w.a.log.Error("floating addresses", "err", err)
	}
	return !errors.Is(err, balance.ErrStillHeld)
}

// unstickAfter is how long after a peer's route has moved its connections are looked at: by then the peer has moved
// its own, too, or what is sent anew would be answered on the dead link.
const unstickAfter = 250 * time.Millisecond

// unstick has connections to peers whose way has changed made anew, if they hang.
func (w *world) unstick(via []node.Route) {
	var moved []netip.Prefix
	for _, r := range via {
		if before, ok := w.via[r.Number]; ok && before != r.Link {
			moved = append(moved, w.m.Meta.Network.Subnet(r.Number))
		}
	}
	w.via = map[uint8]string{}
	for _, r := range via {
		w.via[r.Number] = r.Link
	}
	if len(moved) == 0 {
		return
	}
	w.a.wg.Go(func() {
		timer := time.NewTimer(unstickAfter)
		defer timer.Stop()
		for range 3 { // a connection that is being made hangs for a second if its answer was lost
			select {
			case <-timer.C:
			case <-w.ctx.Done():
				return
			}
			if n, err := w.m.net.Unstick(moved); err != nil {
				w.a.log.Warn("connections over a link that does not work go on by themselves, later", "err", err)
				return
			} else if n > 0 {
				w.a.log.Info("connections over a link that does not work are made anew", "count", n)
			}
			timer.Reset(2 * unstickAfter)
		}
	})
}

func (w *world) Routes(via []node.Route) {
	defer w.slow("setting routes")()
	routes := make([]network.Route, len(via))
	for i, r := range via {
		routes[i] = network.Route{Peer: r.Number, Subnet: w.m.Meta.Network.Subnet(r.Number), Via: r.Via, Link: r.Link}
	}
	defer w.unstick(via)
	if _, err := w.m.net.SetRoutes(routes); err != nil {
		w.a.log.Error("routes to the other nodes", "err", err)
	}
}

func (w *world) Condemn(reason string) {
	w.a.condemn(reason)
}

func (w *world) Explain(e cluster.Event) {
	select {
	case w.events <- e:
	default:
	}
}

// received takes a datagram from the heartbeat port: the brain's, or one of the formation. It runs on the
// receiver's thread, which has nothing else to do: what is forged or repeated costs the brain's loop nothing.
func (a *Agent) received(link string, from netip.AddrPort, payload []byte) {
	if bytes.HasPrefix(payload, []byte(admission.BeaconMagic)) {
		if len(a.beacons) == cap(a.beacons) {
			return // they come again
		}
		select {
		case a.beacons <- bytes.Clone(payload):
		default:
		}
		return
	}
	screen := a.screen.Load()
	if screen == nil {
		return // not a member yet: nobody could check it
	}
	checked, err := screen.Check(balance.Now(), link, from.Addr(), payload)
	if err != nil {
		return // counted by the screen
	}
	a.loop.post(func(b *node.Brain) {
		if err := b.Checked(link, checked); err != nil {
			a.log.Debug("heartbeat refused", "port", link, "err", err)
		}
	})
}

// screenEvery is how often it is told what the screen kept off.
const screenEvery = 10 * time.Second

// watchScreen tells of datagrams that were not taken, as long as there are many.
func (a *Agent) watchScreen(ctx context.Context) {
	t := time.NewTicker(screenEvery)
	defer t.Stop()
	var before uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		n := a.screen.Load().Refused()
		if n-before > manyRefused {
			a.log.Warn("somebody floods the heartbeat port, or has another cluster's key", "refused", n-before, "in", screenEvery)
		}
		before = n
	}
}

// manyRefused is more than neighbours of another cluster and delayed datagrams explain.
const manyRefused = 2000
