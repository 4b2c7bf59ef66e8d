package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/store"
	"github.com/skein-os/skein/storage/iscsi"
)

// san is this machine's way to its storage network: the targets that the kernel's command line names, from the start,
// and those of the ledger, from when it has been read.
type san struct {
	*iscsi.Initiator
	named []iscsi.Portal // by the command line
	wrong []string       // of it, in clauses
	// changed wakes who looks at the portals; it holds one wake-up.
	changed chan struct{}
}

// iscsidCgroup is beside the agent's, in which PID 1 kills what an agent that ended has left.
const iscsidCgroup = "/sys/fs/cgroup/skein.iscsid"

// openSAN starts the initiator. Without anything to log in to it does nothing at all.
func (a *Agent) openSAN(ctx context.Context) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read the kernel's command line: %w", err)
	}
	token, err := admission.ParseToken(a.seed.Token)
	if err != nil {
		return err
	}
	// Not by the cluster's ID: there is none before the ledger, which may be on a disk of the SAN.
	name, err := iscsi.InitiatorName(a.seed.Cluster+"-"+token.Mark(), a.id.Name)
	if err != nil {
		return err
	}
	s := &san{changed: make(chan struct{}, 1)}
	s.named, s.wrong = namedPortals(string(cmdline))
	for _, w := range s.wrong {
		a.log.Error("a target cannot be logged in to", "why", w)
	}
	if s.Initiator, err = iscsi.New(iscsi.Config{Name: name, Cgroup: iscsidCgroup, Output: a.opts.Output, Log: a.log.With("part", "iscsi"),
		Changed: func() { wake(s.changed) }}); err != nil {
		return err
	}
	s.Want(wantAll(s.named), false)
	a.san = s
	a.wg.Go(func() { s.Run(ctx) })
	return nil
}

// namedPortals reads all skein.san= of a kernel's command line. A portal that is named twice counts once.
func namedPortals(cmdline string) (portals []iscsi.Portal, wrong []string) {
	for word := range strings.FieldsSeq(cmdline) {
		value, ok := strings.CutPrefix(word, sanParameter)
		if !ok {
			continue
		}
		list, err := iscsi.ParseSAN(value)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		for _, p := range list {
			if !slices.Contains(portals, p) {
				portals = append(portals, p)
			}
		}
	}
	return portals, wrong
}

func wantAll(portals []iscsi.Portal) []iscsi.Want {
	var out []iscsi.Want
	for _, p := range portals {
		out = append(out, iscsi.Want{Portal: p})
	}
	return out
}

// missing tells, in clauses, which targets of the command line are not there. One portal of a target is enough.
func (s *san) missing() []string { return missingTargets(s.named, s.wrong, s.Status()) }

func missingTargets(named []iscsi.Portal, wrong []string, seen []iscsi.Status) []string {
	out := slices.Clone(wrong)
	there, told := map[string]bool{}, map[string]bool{}
	for _, st := range seen {
		there[st.Target] = there[st.Target] || st.State == iscsi.Ready
	}
	for _, p := range named {
		if there[p.Target] || told[p.Target] {
			continue
		}
		told[p.Target] = true
		var why []string
		for _, st := range seen {
			if st.Target != p.Target {
				continue
			}
			if st.Err != "" {
				why = append(why, st.Err) // it names the portal
			} else {
				why = append(why, fmt.Sprintf("%s is not logged in yet", st.Portal))
			}
		}
		out = append(out, fmt.Sprintf("target %s is not logged in to through any portal (%s)", p.Target, strings.Join(why, "; ")))
	}
	return out
}

// secretRetry is between two tries to read a CHAP secret from a ledger that does not answer.
const secretRetry = time.Second

// keepSAN has the initiator follow the ledger.
func (p *parts) keepSAN(ctx context.Context) {
	var told []cluster.SAN
	for first := true; ; {
		list := p.state.Load().SANs
		if p.a.id.Witness {
			list = nil // it has no services that would need a disk
		}
		var again <-chan time.Time
		if first || !reflect.DeepEqual(list, told) {
			want, err := ledgerWants(p.a.san.named, list, func(name string) ([]byte, error) {
				ctx, cancel := context.WithTimeout(ctx, secretRetry)
				defer cancel()
				return p.store.Secret(ctx, name)
			})
			if err != nil {
				p.a.log.Warn("the targets of the ledger are not followed yet", "err", err)
				again = time.After(secretRetry)
			} else {
				p.a.san.Want(want, true)
				told, first = list, false
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		case <-p.sans:
		}
	}
}

// ledgerWants are the portals of the command line and of the ledger; what the ledger says of CHAP holds for both.
func ledgerWants(named []iscsi.Portal, sans []cluster.SAN, secret func(name string) ([]byte, error)) ([]iscsi.Want, error) {
	want := wantAll(named)
	for i := range sans {
		s := &sans[i]
		var chap *iscsi.CHAP
		if s.User != "" {
			chap = &iscsi.CHAP{User: s.User, TargetUser: s.TargetUser}
		}
		for _, x := range []struct {
			user, name string
			into       func(string)
		}{
			{s.User, cluster.SANSecret(s.Name), func(v string) { chap.Secret = v }},
			{s.TargetUser, cluster.SANTargetSecret(s.Name), func(v string) { chap.TargetSecret = v }},
		} {
			if chap == nil || x.user == "" {
				continue
			}
			value, err := secret(x.name)
			if errors.Is(err, store.ErrNoSecret) {
				continue // the portal's status tells; the others must not wait for it
			}
			if err != nil {
				return nil, fmt.Errorf("CHAP secret of SAN %s: %w", s.Name, err)
			}
			x.into(string(value))
		}
		for k := range want {
			if want[k].Target == s.IQN {
				want[k].CHAP = chap
			}
		}
		for _, addr := range s.Portals {
			p := iscsi.Portal{Target: s.IQN, Addr: addr}
			if !slices.ContainsFunc(want, func(w iscsi.Want) bool { return w.Portal == p }) {
				want = append(want, iscsi.Want{Portal: p, CHAP: chap})
			}
		}
	}
	return want, nil
}

// tellSAN tells the cluster's events which portal was lost and which came back.
func (p *parts) tellSAN(ctx context.Context) {
	lost := map[iscsi.Portal]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.a.san.changed:
		}
		for _, e := range portalNews(lost, p.a.san.Status()) {
			e.Node, e.Time, e.Kind = p.a.id.Name, time.Now(), cluster.EventStorage
			select {
			case p.events <- e:
			default: // there are too many already
			}
		}
	}
}

// portalNews are the events of portals that were lost, or are back, since lost was what is known; it is brought up to
// date. One that has never been there is no news: 'skein san ls' says why.
func portalNews(lost map[iscsi.Portal]bool, seen []iscsi.Status) (news []cluster.Event) {
	for _, s := range seen {
		p := iscsi.Portal{Target: s.Target, Addr: s.Portal}
		switch {
		case s.State == iscsi.Lost && !lost[p]:
			lost[p] = true
			news = append(news, cluster.Event{Subject: s.Portal.String(), Text: fmt.Sprintf("the path to target %s by portal %s is lost", s.Target, s.Portal), Why: s.Err})
		case s.State == iscsi.Ready && lost[p]:
			delete(lost, p)
			news = append(news, cluster.Event{Subject: s.Portal.String(), Text: fmt.Sprintf("the path to target %s by portal %s is back", s.Target, s.Portal)})
		}
	}
	for p := range lost {
		if !slices.ContainsFunc(seen, func(s iscsi.Status) bool { return s.Target == p.Target && s.Portal == p.Addr }) {
			delete(lost, p) // it is not wanted any more
		}
	}
	return news
}

// SAN is this node's side of the storage network.
func (b *backend) SAN() api.NodeSAN {
	return api.NodeSAN{Node: b.a.id.Name, Initiator: b.a.san.Name(), Portals: b.a.san.Status()}
}

// DiscoverSAN asks a portal for its targets.
func (b *backend) DiscoverSAN(ctx context.Context, portal netip.AddrPort) ([]iscsi.Portal, error) {
	return b.a.san.Discover(ctx, portal)
}
