package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// This file is the other side of the restoration of a ledger (package store): a machine that has no vote
// promises itself to the member that is alone with its copy. A machine that joins does so before it is
// admitted; one that is a member without a vote, when the ledger falls silent.

// pledgeFile keeps what this boot has promised, for the next agent.
const pledgeFile = "pledge.json"

func (a *Agent) promised() (*cluster.Pledge, error) {
	data, err := os.ReadFile(a.path(pledgeFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var p cluster.Pledge
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err != nil {
		return nil, fmt.Errorf("what this boot promised is not readable, so it must not join another ledger; reboot the node: %w", err)
	}
	return &p, nil
}

// seenFile keeps the newest revision of the ledger that this boot has acted on, for the next agent.
const seenFile = "seen"

// seenFormat is of one length, so that it is written over in place: that needs no room in a memory that is full.
const seenFormat = "%020d %020d\n" // incarnation, revision

// noteSeen is called before anything is done because of a state.
func (a *Agent) noteSeen(st *cluster.State) error {
	f, err := os.OpenFile(a.path(seenFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, seenFormat, st.Meta.Incarnation, st.Revision)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("note what is known of the ledger: %w", err)
	}
	return nil
}

// lastSeen is the revision of that incarnation that this boot has acted on last, 0 if none.
func (a *Agent) lastSeen(incarnation uint64) (int64, error) {
	data, err := os.ReadFile(a.path(seenFile))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(data) == 0 {
		return 0, nil
	}
	var of uint64
	var revision int64
	if err == nil {
		_, err = fmt.Sscanf(string(data), seenFormat, &of, &revision)
	}
	if err != nil {
		return 0, fmt.Errorf("what this boot has acted on is not readable, so it must not follow another ledger; reboot the node: %w", err)
	}
	if of != incarnation {
		return 0, nil
	}
	return revision, nil
}

func (a *Agent) released() error {
	if err := os.Remove(a.path(pledgeFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("take back a promise: %w", err)
	}
	return nil
}

// roundsBefore a promise: a member that could not admit this machine for a moment should be able to.
const roundsBefore = 2

// choose promises this machine to one of the members that are alone, if there is no other way in. A promise
// to an earlier boot of a member is over when the member is heard in another.
func (a *Agent) choose(given *cluster.Pledge, alone []cluster.Pledge) error {
	if len(alone) == 0 {
		a.strandedRounds = 0
		return nil
	}
	to := slices.MinFunc(alone, func(x, y cluster.Pledge) int { return strings.Compare(x.Node, y.Node) })
	if given != nil && given.ClusterID == to.ClusterID {
		at := slices.IndexFunc(alone, func(p cluster.Pledge) bool { return p.Node == given.Node })
		if at < 0 || alone[at].BootID == given.BootID {
			return nil
		}
		to = alone[at]
	} else if a.strandedRounds++; a.strandedRounds < roundsBefore {
		return nil
	}
	a.log.Warn("no member can admit this machine; it will follow the one that still has the ledger", "node", to.Node, "boot", to.BootID)
	return a.store(pledgeFile, to)
}

// followEvery is how often a member without a vote looks whether the ledger has lost its majority.
const followEvery = time.Second

// follow promises this node to a voter that is alone, while the node itself has no vote.
func (p *parts) follow(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var warned string
	for {
		if err := p.followOnce(ctx); err != nil && ctx.Err() == nil && err.Error() != warned {
			warned = err.Error()
			p.a.log.Warn("the ledger has lost its majority", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *parts) followOnce(ctx context.Context) error {
	given, err := p.a.promised()
	if err != nil {
		return err
	}
	since, _ := p.store.Frozen()
	if given == nil && (since == 0 || p.store.HasCopy()) {
		return nil
	}
	st := p.state.Load()
	if given != nil {
		if since == 0 && over(given, st) {
			return p.free()
		}
		if err := p.store.Promise(given); err != nil { // again, if the agent was restarted
			return err
		}
	}
	var errs []error
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Name == p.a.id.Name || given == nil && n.MemberID == 0 || given != nil && n.Name != given.Node {
			continue
		}
		promise := given
		if given != nil {
			seen, err := p.a.lastSeen(given.Incarnation)
			if err != nil {
				return err
			}
			with := *given
			with.Seen = seen
			promise = &with
		}
		err := p.ask(ctx, n, promise)
		var alone *admission.Stranded
		switch {
		case errors.As(err, &alone) && given != nil && alone.Pledge.Copy > 0 && promise.Seen > alone.Pledge.Copy:
			(&world{parts: p, ctx: ctx}).Condemn(fmt.Sprintf("this node acted on revision %d of the ledger, and the only copy that is left, that of %s, ends at %d: what is later never happened",
				promise.Seen, n.Name, alone.Pledge.Copy))
			return errors.New("this node knows more than is left of the ledger: it reboots")
		case err == nil && given != nil: // it has a leader again
			return p.free()
		case errors.As(err, &alone) && given == nil:
			if err := p.store.Promise(&alone.Pledge); err != nil {
				return err
			}
			if err := p.a.store(pledgeFile, alone.Pledge); err != nil {
				return err
			}
			p.a.log.Warn("this node follows the one that still has the ledger", "node", n.Name)
			return nil
		case err != nil && alone == nil:
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// over tells whether the ledger, which answers, says that a promise has ended: it was restored, or the member
// is in another boot. What is known of a ledger that does not answer may be older than the promise: a node that
// was cut off while the member came back, and became a voter, still knows the boot before.
func over(given *cluster.Pledge, st *cluster.State) bool {
	if st.Revision == 0 { // remembered by the agent before this one
		return false
	}
	to := st.Node(given.Node)
	return st.Meta.Incarnation > given.Incarnation || to != nil && to.BootID != given.BootID
}

// free ends a promise: the ledger that it was given to answers.
func (p *parts) free() error {
	if err := p.a.released(); err != nil {
		return err
	}
	return p.store.Promise(nil)
}

// ask asks a member to admit this boot, which is admitted: the answer tells how the member's ledger is.
func (p *parts) ask(ctx context.Context, n *cluster.Node, given *cluster.Pledge) error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	addr := netip.AddrPortFrom(p.m.Meta.Network.NodeAddr(n.Number), cluster.PortAPI)
	_, err = admission.Join(ctx, addr, p.a.token(), key, admission.Request{
		Cluster: p.a.seed.Cluster, Name: p.a.id.Name, MachineID: p.a.id.MachineID, BootID: p.a.id.BootID,
		Links: p.a.links.List(), CPUs: p.a.id.CPUs, Memory: p.a.id.Memory, Software: p.a.opts.Version, Witness: p.a.id.Witness, Pledge: given,
	})
	return err
}
