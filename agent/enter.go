package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/network"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/store"
)

// membership is what a node holds once it is in the cluster.
type membership struct {
	admission.Admitted
	files pki.Files
	net   *network.Node
	store *store.Store
	// resumed: an earlier agent of this boot was the member.
	resumed bool
	// nodes are the members as this agent, or the one before it, last knew them: whom to ask while the ledger
	// does not answer.
	nodes []cluster.Node
	// disk is the cluster disk that the ledger was restored from, nil if it was not.
	disk *openDisk
}

// admittedFile keeps the membership of this boot for the next agent. It holds the heartbeat key.
const admittedFile = "admitted.json"

// enter makes the machine a member: again, if an earlier agent of this boot was one; by forming the
// cluster with the others; or by joining it.
func (a *Agent) enter(ctx context.Context) (*membership, error) {
	m, err := a.resume(ctx)
	if m != nil || err != nil {
		return m, err
	}
	if a.pin != nil {
		return a.awaitApproval(ctx)
	}
	token, err := admission.ParseToken(a.seed.Token)
	if err != nil {
		return nil, err
	}
	links := a.links.List()
	req := admission.Request{
		Cluster: a.seed.Cluster, Name: a.id.Name, MachineID: a.id.MachineID, BootID: a.id.BootID,
		Links: links, CPUs: a.id.CPUs, Memory: a.id.Memory, Labels: a.seed.Labels, Software: a.opts.Version, Witness: a.id.Witness,
	}
	for {
		self := admission.Beacon{
			Cluster: a.seed.Cluster, Name: a.id.Name, Expect: a.seed.Expect,
			Identity: admission.Identity{MachineID: a.id.MachineID, BootID: a.id.BootID},
		}
		for _, l := range links {
			self.Addrs = append(self.Addrs, l.Addr.Addr())
		}
		voted, err := a.formation()
		if err != nil {
			return nil, err
		}
		formation := admission.NewFormation(self, voted, 0, 0)
		d, err := admission.Discover(ctx, token, formation, a, a.beacons, a.rememberFormation, func(d admission.Decision) {
			a.log.Info("cluster "+a.seed.Cluster, "do", d.Action.String(), "why", d.Reason)
		}, a.log)
		if err != nil {
			return nil, err
		}
		if d.Action == admission.FoundIt {
			m, err := a.restore(ctx, formation, token, req)
			if m != nil || err != nil {
				return m, err
			}
			return a.found(ctx, req)
		}
		adm, from, err := a.join(ctx, d.Members, req)
		if err == nil {
			return a.joined(ctx, adm, from)
		}
		a.log.Warn("not admitted, asking again", "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(joinPause):
		}
	}
}

// joinPause is between two attempts to join: a member may have heard of this machine's last boot and
// not yet of its end.
const joinPause = 500 * time.Millisecond

// formationFile keeps what this boot has promised in the formation of the cluster.
const formationFile = "formation.json"

func (a *Agent) formation() (admission.Memory, error) {
	var m admission.Memory
	data, err := os.ReadFile(a.path(formationFile))
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		return m, fmt.Errorf("what this boot voted for is not readable, so it must not vote again; reboot the node: %w", err)
	}
	return m, nil
}

func (a *Agent) rememberFormation(m admission.Memory) error { return a.store(formationFile, m) }

// store writes a file of the agent's state, whole or not at all.
func (a *Agent) store(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	tmp := a.path(name + ".new")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return os.Rename(tmp, a.path(name))
}

func (a *Agent) found(ctx context.Context, req admission.Request) (*membership, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	adm, first, err := admission.Found(a.seed, req, key, time.Now())
	if err != nil {
		return nil, err
	}
	m := &membership{Admitted: *adm, files: pki.FilesIn(a.path("pki"))}
	if err := a.settle(m); err != nil {
		return nil, err
	}
	if m.store, err = store.Bootstrap(ctx, a.storeConfig(m), adm.Meta, first); err != nil {
		return nil, err
	}
	return m, a.remember(m)
}

// join asks the members in turn.
func (a *Agent) join(ctx context.Context, members []netip.AddrPort, req admission.Request) (*admission.Admitted, netip.AddrPort, error) {
	token, err := admission.ParseToken(a.seed.Token)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	if req.Pledge, err = a.promised(); err != nil {
		return nil, netip.AddrPort{}, err
	}
	var errs []error
	var alone []cluster.Pledge
	for _, addr := range members {
		adm, err := admission.Join(ctx, addr, token, key, req)
		if err == nil {
			if err := a.released(); err != nil {
				return nil, netip.AddrPort{}, err
			}
			a.log.Info("admitted", "by", adm.AdmittedBy, "number", adm.Node.Number, "epoch", adm.Node.Epoch)
			return adm, addr, nil
		}
		var st *admission.Stranded
		if errors.As(err, &st) {
			alone = append(alone, st.Pledge)
		}
		errs = append(errs, err)
	}
	if err := a.choose(req.Pledge, alone); err != nil {
		errs = append(errs, err)
	}
	return nil, netip.AddrPort{}, errors.Join(errs...)
}

func (a *Agent) joined(ctx context.Context, adm *admission.Admitted, from netip.AddrPort) (*membership, error) {
	m := &membership{Admitted: *adm, files: pki.FilesIn(a.path("pki"))}
	if err := a.settle(m); err != nil {
		return nil, err
	}
	if err := a.firstRoutes(ctx, m, from); err != nil {
		return nil, err
	}
	var err error
	if m.store, err = store.OpenClient(ctx, a.storeConfig(m), adm.Endpoints); err != nil {
		return nil, err
	}
	return m, a.remember(m)
}

// settle writes the certificates and makes the node's own network.
func (a *Agent) settle(m *membership) error {
	if err := m.files.Write(m.CA, m.Cert, m.Key); err != nil {
		return err
	}
	var err error
	m.net, err = network.Setup(m.Meta.Network, m.Node.Number)
	return err
}

// firstRoutes makes the way to the other nodes before the ledger can be read, which is on the other side
// of it: the member that admitted this node says where they are. From then on the brain moves the routes.
func (a *Agent) firstRoutes(ctx context.Context, m *membership, member netip.AddrPort) error {
	tlsConfig, err := pki.ClientTLS(m.files)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	c := api.Client{Endpoints: []string{"https://" + member.String()}, HTTP: &http.Client{Transport: transport}}
	st, err := c.Status(ctx)
	if err != nil {
		return fmt.Errorf("ask %s for the other nodes: %w", member, err)
	}
	var routes []network.Route
	for _, n := range st.Nodes {
		if n.Name == m.Node.Name {
			continue
		}
		for _, l := range n.Links {
			theirs, err := netip.ParsePrefix(l.Address)
			if err != nil {
				continue
			}
			if own := sameSubnet(a.links.List(), theirs); own != nil {
				subnet, err := n.Address.Prefix(24)
				if err != nil {
					continue
				}
				routes = append(routes, network.Route{Peer: n.Address.As4()[2], Subnet: subnet, Via: theirs.Addr(), Link: own.Name})
				break
			}
		}
	}
	_, err = m.net.SetRoutes(routes)
	return err
}

// sameSubnet is the own link that a peer's address is directly reachable on.
func sameSubnet(own []cluster.Link, theirs netip.Prefix) *cluster.Link {
	for i := range own {
		if own[i].Addr.Masked() == theirs.Masked() {
			return &own[i]
		}
	}
	return nil
}

func (a *Agent) storeConfig(m *membership) store.Config {
	return store.Config{
		Name: a.id.Name, BootID: a.id.BootID, DataDir: a.path("etcd"),
		Addr:   m.Meta.Network.NodeAddr(m.Node.Number),
		CAFile: m.files.CA, CertFile: m.files.Cert, KeyFile: m.files.Key,
		Log: a.log.With("part", "ledger"),
	}
}

// remembered is the membership on disk (in memory, that is), for an agent that is restarted.
type remembered struct {
	BootID    string
	Admitted  admission.Admitted
	Endpoints []string
	Nodes     []cluster.Node
}

func (a *Agent) remember(m *membership) error {
	return a.store(admittedFile, remembered{BootID: a.id.BootID, Admitted: m.Admitted, Endpoints: m.store.Endpoints(), Nodes: m.nodes})
}

// resume continues the membership of an earlier agent of this boot; nil if there was none.
func (a *Agent) resume(ctx context.Context) (*membership, error) {
	data, err := os.ReadFile(a.path(admittedFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var r remembered
	if err := json.Unmarshal(data, &r); err != nil || r.BootID != a.id.BootID {
		a.log.Warn("the remembered membership is of no use, joining anew", "err", err)
		return nil, nil
	}
	a.adopt(&r.Admitted)
	m := &membership{Admitted: r.Admitted, files: pki.FilesIn(a.path("pki")), resumed: true, nodes: r.Nodes}
	if m.net, err = network.Setup(m.Meta.Network, m.Node.Number); err != nil {
		return nil, err
	}
	cfg := a.storeConfig(m)
	if store.Resumable(cfg) {
		m.store, err = store.Resume(ctx, cfg, r.Endpoints)
	} else {
		m.store, err = store.ResumeClient(cfg, r.Endpoints)
	}
	if err != nil {
		return nil, fmt.Errorf("go on as member %s: %w", &m.Node, err)
	}
	a.log.Info("going on as a member after a restart of the agent", "node", m.Node.Name)
	return m, nil
}

func setHostname(name string) error { return unix.Sethostname([]byte(name)) }
