package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-os/skein/agent/access"
	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"github.com/skein-os/skein/agent/disks"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/network"
	"github.com/skein-os/skein/agent/node"
	"github.com/skein-os/skein/agent/pid1/control"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/store"
	"github.com/skein-os/skein/agent/workload"
)

// More patience before a suspicion than member's default: etcd, TLS and containers share the processor with the heartbeats,
// and on a single busy one they hold them up for some 200 ms now and then. A false suspicion costs more than
// the 0.1 s that this adds to a takeover.
const (
	silent = 500 * time.Millisecond
	lease  = 800 * time.Millisecond // not longer: a takeover waits for its end, and a lapse only darkens an address
)

// parts are a member's parts, connected. Everything that is told to the brain goes through loop.
type parts struct {
	a        *Agent
	m        *membership
	store    *store.Store
	images   *container.Images
	runtime  *container.Runtime
	runner   *workload.Runner
	balancer *balance.Balancer
	disks    *disks.Manager
	shares   *sharedFS
	boots    *netboots
	peers    *peers
	jobs     *jobs
	join     *admission.Server // admits machines and signs certificates

	// What enforce has done last: the serial numbers that are revoked, and how many nodes were removed.
	revoked  []string
	removed  int
	enforced bool

	state atomic.Pointer[cluster.State]
	// publishing and fetching wake who follows the ledger besides the brain; each holds one wake-up.
	publishing, fetching, warming, sans, keeping chan struct{}
	// events waits for room in the ledger; what does not fit is lost, and only tells of links.
	events chan cluster.Event
	// wills are on their way to PID 1; only the newest counts.
	wills chan control.Will
	// bindings are times for PID 1 to bind the watchdog to, 0 to unbind it; only the newest counts.
	bindings chan time.Duration
	// decisions wait to be recorded; unrecorded counts those that found no room.
	decisions  chan node.Decided
	unrecorded atomic.Int64

	mu sync.Mutex
	// local are the newest statuses of this node's instances, by ID: published before the ledger has them.
	local map[string]cluster.Status
}

// serve is the life of a member.
func (a *Agent) serve(ctx context.Context, m *membership) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &parts{a: a, m: m, store: m.store,
		publishing: make(chan struct{}, 1), fetching: make(chan struct{}, 1), warming: make(chan struct{}, 1), sans: make(chan struct{}, 1), keeping: make(chan struct{}, 1),
		events: make(chan cluster.Event, 256), wills: make(chan control.Will, 1), bindings: make(chan time.Duration, 1), decisions: make(chan node.Decided, mostDecisions),
		local: map[string]cluster.Status{}}
	defer p.store.Close()
	p.state.Store(&cluster.State{Meta: m.Meta, Nodes: m.nodes})
	if err := p.open(); err != nil {
		return err
	}
	defer p.close()
	p.join = p.newDoor()
	a.gate.Report(a.id.Name, p.tell)
	// The first look at the ledger is linearizable: it must name every loss that an earlier agent of this
	// boot may have known of.
	given, err := a.promised()
	if err != nil {
		return err
	}
	if given != nil {
		if err := p.store.Promise(given); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(cluster.PortAPI))
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	defer listener.Close()
	serverTLS, err := pki.ServerTLS(m.files)
	if err != nil {
		return err
	}
	run := func(f func(context.Context)) { a.wg.Go(func() { f(ctx) }) }
	// What a ledger that has lost its majority needs to be restored. Nothing of it waits for the ledger.
	attend := sync.OnceFunc(func() {
		run(p.store.Keep)
		run(p.follow)
		run(func(ctx context.Context) { admission.Announce(ctx, a.token(), a, p.beacon, a.log) })
		run(func(ctx context.Context) { p.serveAPI(ctx, listener, serverTLS) })
	})
	first, err := p.firstState(ctx, attend)
	if err != nil {
		return err
	}
	if first.LedgerDisk != nil {
		p.store.Expect(store.DefaultDetachAfter) // before this node can become a voter
	}
	self := m.Node
	self.BootID, self.Links = a.id.BootID, a.links.List()
	cfg := member.DefaultConfig()
	cfg.Silent, cfg.Lease = silent, lease
	cfg.ClusterID, cfg.Key = m.Meta.ID, m.HeartbeatKey
	a.screen.Store(member.NewScreen(cfg))
	p.screenPeers(first)
	dog, err := machineWatchdog(a.opts.RunDir)
	if err != nil {
		a.log.Warn("this machine's watchdog proves nothing", "err", err)
	}
	brain := node.New(self, node.Config{Member: cfg, Watchdog: dog, Resumed: m.resumed, Decided: p.decided}, &world{parts: p, ctx: ctx})
	brain.Ledger(first, p.store.Leader())
	p.shares.Ledger(first)

	go func() {
		cancel(a.readPID1(p.runtime.Exited, func(until time.Duration) { a.loop.must(ctx, func(b *node.Brain) { b.Bound(until) }) })) // ends with the connection, which outlives this function
	}()
	resolver, err := p.dns()
	if err != nil {
		return err
	}
	defer resolver.Close()

	run(func(ctx context.Context) {
		a.loop.run(ctx, brain, a.ordered, func(err error) { a.log.Warn("heartbeats", "err", err) })
	})
	run(func(ctx context.Context) {
		if err := p.runner.Run(ctx); err != nil {
			cancel(err)
		}
	})
	attend()
	run(a.watchScreen)
	run(p.watch)
	run(p.publish)
	run(p.fetchImages)
	run(p.keepWarm)
	run(p.writeEvents)
	run(p.leaveWills)
	run(p.recordDecisions)
	run(p.keepLinks)
	run(p.keepPorts)
	run(p.keepPathMTU)
	run(p.keepDisk)
	run(p.keepImages)
	run(p.keepSAN)
	run(p.keepShared)
	run(p.boots.run)
	run(p.tellSAN)
	run(p.keepCertificates)
	run(p.disks.Watch)
	run(p.followDisks)
	if !p.a.id.Witness {
		run(func(ctx context.Context) { p.serveRegistry(ctx, serverTLS) })
	}
	run(p.jobs.coordinate)
	run(p.jobs.execute)
	a.log.Info("node is a member", "node", self.Name, "number", self.Number, "epoch", self.Epoch, "cluster", m.Meta.Name)
	<-ctx.Done()
	if !a.ordered() && a.opts.Crash != nil {
		a.opts.Crash(context.Cause(ctx))
	}
	if p.store.Leader() {
		// An orderly stop of the coordinator should not cost the others an election.
		mctx, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		if err := p.store.MoveLeader(mctx); err != nil {
			a.log.Warn("hand the lead over", "err", err)
		}
		done()
	}
	return context.Cause(ctx)
}

func (a *Agent) token() admission.Token {
	t, err := admission.ParseToken(a.seed.Token)
	if err != nil {
		panic(err) // the seed was checked when it was read
	}
	return t
}

// open makes the parts that need nothing of each other.
func (p *parts) open() error {
	log := p.a.log
	var err error
	if p.peers, err = newPeers(p.m); err != nil {
		return err
	}
	if p.images, err = container.OpenImages(p.a.path("images"), container.Limits{}, log.With("part", "images")); err != nil {
		return err
	}
	p.images.Origins = p.origins
	if p.runtime, err = container.New(container.Config{
		Root: p.a.path("containers"), Images: p.images, Cgroup: "/skein.services",
		Volumes: p.a.path("volumes"), Shared: SharedRoot,
		Bridge: network.Bridge, Subnet: p.m.net.Subnet(), Log: log.With("part", "containers"),
	}); err != nil {
		return err
	}
	if p.balancer, err = balance.Open(balance.Config{
		Log: log.With("part", "balance"), Node: p.m.net.Addr(), Subnet: p.m.net.Subnet(), Bridge: network.Bridge,
	}); err != nil {
		return err
	}
	if p.disks, err = p.openDisks(); err != nil {
		return err
	}
	p.shares = p.openShares(p.m.Meta, &p.m.Node)
	p.boots = p.openNetboot()
	p.runner = workload.NewRunner(workload.RunnerConfig{
		Node: p.a.id.Name, Runtime: p.runtime, Images: ensurer{p}, Volumes: attached{p}, Log: log.With("part", "runner"),
		Report: p.report,
	})
	p.jobs, err = p.openJobs()
	return err
}

// report takes a status from the runner.
func (p *parts) report(st cluster.Status) {
	p.mu.Lock()
	if st.State.Ended() {
		delete(p.local, st.ID)
	} else {
		p.local[st.ID] = st
	}
	p.mu.Unlock()
	wake(p.publishing)
	p.a.loop.must(context.Background(), func(b *node.Brain) { b.Report(st) })
}

// wake leaves a wake-up for who waits on ch, if there is none yet.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (p *parts) close() {
	p.runtime.Close()
	p.balancer.Close()
}

// firstState reads the ledger until it answers: a node that has just joined may find an election going on.
// frozen is called when the ledger has lost its majority: an answer may need what it starts.
func (p *parts) firstState(ctx context.Context, frozen func()) (*cluster.State, error) {
	for {
		st, err := p.store.Read(ctx)
		if err == nil {
			p.enforce(st)
			p.state.Store(st)
			return st, p.a.noteSeen(st)
		}
		p.a.log.Warn("waiting for the ledger", "err", err)
		if since, _ := p.store.Frozen(); since > 0 {
			frozen()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// watch brings each new state of the ledger to the brain and to who follows.
func (p *parts) watch(ctx context.Context) {
	var known []string // as remembered for the next agent, which must find the ledger where it is then
	err := p.store.Watch(ctx, func(st *cluster.State, leader bool) error {
		if err := p.a.noteSeen(st); err != nil {
			return err
		}
		p.enforce(st)
		p.state.Store(st)
		p.screenPeers(st)
		now := slices.Sorted(slices.Values(p.store.Endpoints()))
		if len(now) > 0 {
			for _, n := range st.Nodes {
				now = append(now, fmt.Sprintf("%s %d %s %x", n.Name, n.Number, n.BootID, n.MemberID))
			}
		}
		if len(now) > 0 && !slices.Equal(now, known) {
			p.m.nodes = st.Nodes
			if err := p.a.remember(p.m); err != nil {
				p.a.log.Warn("an agent that is restarted may not find the ledger", "err", err)
			} else {
				known = now
			}
		}
		p.a.loop.must(ctx, func(b *node.Brain) { b.Ledger(st, leader) })
		p.shares.Ledger(st)
		wake(p.publishing)
		wake(p.fetching)
		wake(p.warming)
		wake(p.sans)
		wake(p.keeping)
		wake(p.a.ports.changed)
		wake(p.boots.woken)
		return nil
	})
	if err != nil && ctx.Err() == nil {
		p.a.log.Error("the ledger is not watched any more", "err", err)
		p.a.fail(fmt.Errorf("the ledger is not watched any more: %w", err))
	}
}

// screenPeers tells the screen of heartbeats where peers send from.
func (p *parts) screenPeers(st *cluster.State) {
	var from []netip.Addr
	for i := range st.Nodes {
		if n := &st.Nodes[i]; n.Name != p.a.id.Name {
			for _, l := range n.Links {
				from = append(from, l.Addr.Addr())
			}
		}
	}
	p.a.screen.Load().SetPeers(from)
}

// publish keeps the published addresses and ports what the ledger says.
func (p *parts) publish(ctx context.Context) {
	for {
		if err := p.publishState(p.state.Load()); err != nil {
			p.a.log.Error("publish services", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.publishing:
		}
	}
}

// publishState tells the balancer what the cluster's services answer on.
func (p *parts) publishState(st *cluster.State) error {
	var services []balance.Service
	var floating []netip.Addr
	for i := range st.Services {
		s := &st.Services[i]
		floating = append(floating, s.Floating...)
		out := balance.Service{Name: s.FullName(), Floating: s.Floating}
		out.Targets, out.Draining = p.targets(st, s)
		for _, port := range s.Ports {
			out.Ports = append(out.Ports, balance.Port{Target: port.Target, Published: port.Published, Protocol: port.Protocol})
		}
		services = append(services, out)
	}
	if err := p.balancer.SetFloating(floating); err != nil {
		return err
	}
	return p.balancer.Apply(services)
}

// targets are the addresses of a service's instances that get new connections, and of those that are about to stop. A
// service with a floating address is answered by the node that holds it, one without by every node, for all instances.
func (p *parts) targets(st *cluster.State, s *cluster.Service) (now, draining []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range st.Instances {
		in := &st.Instances[i]
		if in.Stack != s.Stack || in.Service != s.Name {
			continue
		}
		var at cluster.Status
		if in.Node == p.a.id.Name && in.BootID == p.a.id.BootID {
			at = p.local[in.ID] // newer than the ledger's
		} else if n, status := st.Node(in.Node), st.Status(in.ID); len(s.Floating) == 0 && status != nil && n != nil && n.BootID == in.BootID && n.State != cluster.NodeLost {
			at = *status
		}
		switch {
		case !at.Address.IsValid():
		case in.Stop && (at.State == cluster.InstanceRunning || at.State == cluster.InstanceStopping):
			draining = append(draining, at.Address)
		case at.State == cluster.InstanceRunning:
			now = append(now, at.Address)
		}
	}
	if len(now) == 0 { // nobody else would answer
		return draining, nil
	}
	return now, draining
}

type runningInstance struct {
	in     *cluster.Instance
	status *cluster.Status
}

// running are the instances that run on living nodes and have an address.
func running(st *cluster.State) []runningInstance {
	var out []runningInstance
	for i := range st.Instances {
		in := &st.Instances[i]
		status := st.Status(in.ID)
		if status == nil || status.State != cluster.InstanceRunning || !status.Address.IsValid() || in.Stop {
			continue
		}
		if n := st.Node(in.Node); n == nil || n.BootID != in.BootID || n.State == cluster.NodeLost {
			continue
		}
		out = append(out, runningInstance{in, status})
	}
	return out
}

// lookup answers the cluster's DNS: where a service runs, and whether there is one of that name.
func (p *parts) lookup(service, stack string) (addrs []netip.Addr, exists bool) {
	st := p.state.Load()
	for i := range st.Services {
		exists = exists || st.Services[i].Name == service && st.Services[i].Stack == stack
	}
	for _, r := range running(st) {
		if r.in.Service == service && r.in.Stack == stack {
			addrs = append(addrs, r.status.Address)
		}
	}
	return addrs, exists
}

// fetchImages gets all images of the cluster before they are needed: then a takeover has nothing to
// fetch and nothing to unpack, and the loss of a node loses none.
func (p *parts) fetchImages(ctx context.Context) {
	if p.a.id.Witness {
		return // it will never start one
	}
	retry := time.NewTicker(5 * time.Second) // an image whose holder was down is asked for again
	defer retry.Stop()
	for {
		for _, im := range p.state.Load().Images {
			ictx, cancel := context.WithTimeout(ctx, time.Minute)
			if err := (ensurer{p}).ensure(ictx, im); err != nil && ctx.Err() == nil {
				p.a.log.Warn("image is not here yet", "image", im.Ref, "err", err)
			} else if err == nil {
				wake(p.warming)
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return
		case <-p.fetching:
		case <-retry.C:
		}
	}
}

// ensurer makes images ready, from other nodes if need be.
type ensurer struct{ p *parts }

// Ensure is what the runner calls before it starts an instance.
func (e ensurer) Ensure(ctx context.Context, ref, digest string) error {
	st := e.p.state.Load()
	for i := range st.Images {
		if im := st.Images[i]; im.Digest == digest {
			return e.ensure(ctx, im)
		}
	}
	return e.p.images.Ensure(ctx, cluster.Image{Ref: ref, Digest: digest})
}

func (e ensurer) ensure(ctx context.Context, im cluster.Image) error {
	var from []container.Peer
	st := e.p.state.Load()
	for i := range st.Nodes {
		n := st.Nodes[i]
		if n.Name != e.p.a.id.Name && n.State != cluster.NodeLost {
			from = append(from, container.PeerFunc(e.p.peers.fetcher(&n)))
		}
	}
	if st.IsKept(&im) {
		from = append(from, container.PeerFunc(e.p.fromDisk))
	}
	return e.p.images.Ensure(ctx, im, from...)
}

// writeEvents commits events that belong to no transaction, several at once.
func (p *parts) writeEvents(ctx context.Context) {
	for {
		var t cluster.Txn
		select {
		case <-ctx.Done():
			return
		case e := <-p.events:
			t.Events = append(t.Events, e)
		}
		for more := true; more && len(t.Events) < 50; {
			select {
			case e := <-p.events:
				t.Events = append(t.Events, e)
			default:
				more = false
			}
		}
		if _, _, err := p.store.Commit(ctx, t); err != nil && ctx.Err() == nil {
			p.a.log.Warn("events are lost", "events", len(t.Events), "err", err)
		}
	}
}

// keepLinks follows the ports: the guard at once, the node's record in the ledger as soon as it takes it.
func (p *parts) keepLinks(ctx context.Context) {
	changed := make(chan []cluster.Link, 1)
	p.a.loop.onLinks(func(links []cluster.Link) {
		select { // the newest is what counts
		case <-changed:
		default:
		}
		changed <- links
	})
	for {
		var links []cluster.Link
		select {
		case <-ctx.Done():
			return
		case links = <-changed:
		}
		names := make([]string, len(links))
		locals := make([]netip.Addr, len(links))
		for i, l := range links {
			names[i], locals[i] = l.Name, l.Addr.Addr()
		}
		if err := p.balancer.SetLinks(names, locals); err != nil {
			p.a.log.Error("guard of the ports", "err", err)
		}
		for !p.recordLinks(ctx, links) && len(changed) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

// recordLinks writes the ports into the node's record, if they differ.
func (p *parts) recordLinks(ctx context.Context, links []cluster.Link) (done bool) {
	n := p.state.Load().Node(p.a.id.Name)
	if n == nil || n.BootID != p.a.id.BootID {
		return false
	}
	// Ports that went away stay in the record: they are links of the node that do not work.
	want := slices.Clone(n.Links)
	for _, l := range links {
		at := slices.IndexFunc(want, func(o cluster.Link) bool { return o.MAC == l.MAC })
		if at < 0 {
			want = append(want, l)
		} else {
			want[at] = l
		}
	}
	if slices.Equal(want, n.Links) {
		return true
	}
	next := *n
	next.Links = want
	_, ok, err := p.store.Commit(ctx, cluster.Txn{
		Conditions: []cluster.Condition{{Key: n.Key(), Revision: n.Revision}},
		Puts:       []cluster.Put{{Key: n.Key(), Value: next}},
	})
	return ok && err == nil
}

func (p *parts) beacon() admission.Beacon {
	b := admission.Beacon{
		Cluster: p.a.seed.Cluster, Name: p.a.id.Name, ClusterID: p.m.Meta.ID,
		Identity: admission.Identity{MachineID: p.a.id.MachineID, BootID: p.a.id.BootID},
	}
	for _, l := range p.a.links.List() {
		b.Addrs = append(b.Addrs, l.Addr.Addr())
	}
	return b
}

func (p *parts) serveAPI(ctx context.Context, l net.Listener, serverTLS *tls.Config) {
	handler := api.NewServer(&backend{parts: p}, p.join, access.Caller, p.a.log.With("part", "api"))
	handler.HandleJobs(p.jobs)
	handler.HandleNet(p)
	handler.HandleRegistry(p.jobImages)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true) // joining is one HTTP/1 request on the connection that its proof is bound to
	protocols.SetHTTP2(true)
	serverTLS = serverTLS.Clone()
	serverTLS.NextProtos = []string{"h2", "http/1.1"}
	srv := &http.Server{
		Protocols: protocols,
		Handler:   p.a.gate.Handler(handler), ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		IdleTimeout: 2 * time.Minute, // of anybody: no certificate is needed to connect
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(tls.NewListener(l, serverTLS)); err != nil && ctx.Err() == nil {
		p.a.log.Error("the API has ended", "err", err)
	}
}

// heard tells whether this node hears that boot of a node; its own it knows.
func (p *parts) heard(ctx context.Context, name, boot string) bool {
	if name == p.a.id.Name {
		return boot == p.a.id.BootID
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	got := make(chan bool, 1)
	if err := p.a.loop.ask(ctx, func(b *node.Brain) { got <- b.Hears(name, boot) }); err != nil {
		return false
	}
	return <-got
}

func (p *parts) dns() (*balance.DNS, error) {
	return balance.ServeDNS(balance.DNSConfig{
		Log: p.a.log.With("part", "dns"), Listen: netip.AddrPortFrom(p.m.net.Addr(), 53),
		Clients: []netip.Prefix{p.m.net.Subnet()}, Lookup: p.lookup, Resolvers: p.resolvers,
	})
}

func (p *parts) resolvers() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range p.a.links.Resolvers() {
		out = append(out, netip.AddrPortFrom(a, 53))
	}
	return out
}
