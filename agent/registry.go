package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/registry"
	"github.com/skein-os/skein/agent/retention"
)

// This file connects the cluster's registry (package registry) with the image store, the ledger and the other nodes, and
// removes images that nothing needs (package retention).

const (
	// tidyEvery is between two looks for uploads, names and blobs that can go.
	tidyEvery = 10 * time.Second
	// copiedWithin is how long another node may take to copy a pushed image.
	copiedWithin = 2 * time.Minute
	// seenWithin is how long the ledger's own change may take to come back.
	seenWithin = 10 * time.Second
)

// registryBackend is what the registry is made of on this node.
type registryBackend struct{ p *parts }

var _ registry.Backend = registryBackend{}

// Login looks the user up in this node's copy of the ledger: a registry that has lost its majority is still read.
func (b registryBackend) Login(user, password string) registry.Access {
	u := b.p.state.Load().RegistryUser(user)
	switch {
	case u == nil || !u.Admits(password):
		return registry.AccessNone
	case u.Push:
		return registry.AccessPush
	}
	return registry.AccessPull
}

func (b registryBackend) Images() []cluster.Image { return b.p.state.Load().Images }

func (b registryBackend) Open(ctx context.Context, digest string) (io.ReadSeekCloser, int64, error) {
	f, size, err := b.p.images.Blob(digest)
	if !errors.Is(err, container.ErrNotFound) {
		return f, size, err
	}
	if err := b.p.images.Bring(ctx, digest, largestBlob, b.fetch); err != nil {
		return nil, 0, err
	}
	return b.p.images.Blob(digest)
}

// largestBlob that is fetched from another node, bytes: what Limits of both packages allow.
const largestBlob = 4 << 30

// fetch gets a blob from whichever node has it. One that does not answer counts as one that has not: the client sends
// the blob again.
func (b registryBackend) fetch(ctx context.Context, digest string) (io.ReadCloser, error) {
	st := b.p.state.Load()
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.Name == b.p.a.id.Name || n.State == cluster.NodeLost || n.Witness {
			continue
		}
		if r, err := b.p.peers.fetcher(n)(ctx, digest); err == nil {
			return r, nil
		}
	}
	if r, err := b.p.fromDisk(ctx, digest); err == nil {
		return r, nil
	}
	return nil, fmt.Errorf("blob %s: %w on any node", digest, container.ErrNotFound)
}

func (b registryBackend) Hold(digest string) (int64, error) { return b.p.images.Hold(digest) }

func (b registryBackend) NewUpload(limit int64) (registry.Upload, error) {
	return b.p.images.NewUpload(limit)
}

func (b registryBackend) Tag(ctx context.Context, user, ref, digest string) error {
	im, err := b.p.images.Record(ctx, ref, digest, container.SourcePush, b.fetch)
	if err != nil {
		return err
	}
	st := b.p.state.Load()
	if old := st.Image(ref); old == nil || old.Top() != im.Top() {
		if old != nil {
			im.Used = old.Used
		}
		t := cluster.RecordImages(st, []cluster.Image{im})
		t.Events = []cluster.Event{{Time: time.Now(), Node: b.p.a.id.Name, Kind: cluster.EventImage, Subject: "image " + ref,
			Text: fmt.Sprintf("pushed, %.1f MB, %.19s", float64(im.Size)/1e6, im.Top()), Why: "by registry user " + user}}
		if old == nil { // of two that push a new name at once, one has to look again
			t.Conditions = append(t.Conditions, cluster.Condition{Key: im.Key()})
		}
		if err := b.p.images.Add(im); err != nil {
			return err
		}
		if err := b.p.commitShown(ctx, t); err != nil {
			return err
		}
	}
	// Only now is it as safe as everything else that was acknowledged: this node may be the next to die.
	ctx, cancel := context.WithTimeout(ctx, copiedWithin)
	defer cancel()
	if err := (&backend{parts: b.p}).AwaitCopy(ctx, im); err != nil {
		return fmt.Errorf("image %s is on node %s, but no other node has copied it within %s: %w", ref, b.p.a.id.Name, copiedWithin, err)
	}
	return nil
}

func (b registryBackend) Untag(ctx context.Context, user string, refs []string) error {
	st := b.p.state.Load()
	jobs, err := b.p.jobImages(ctx)
	if err != nil {
		return err
	}
	uses := retention.InUse(st, jobs)
	var list []retention.Removal
	for _, ref := range refs {
		im := st.Image(ref)
		if im == nil {
			return fmt.Errorf("image %s: %w", ref, container.ErrNotFound)
		}
		if what := uses.Of(im); what != "" {
			return fmt.Errorf("image %s: %s is made of it: %w", ref, what, registry.ErrInUse)
		}
		list = append(list, retention.Removal{Image: *im})
	}
	t := retention.Drop(list)
	for _, ref := range refs {
		t.Events = append(t.Events, cluster.Event{Time: time.Now(), Node: b.p.a.id.Name, Kind: cluster.EventImage, Subject: "image " + ref,
			Text: "removed", Why: "by registry user " + user})
	}
	return b.p.commitShown(ctx, t)
}

func (b registryBackend) Forward(node string) http.Handler {
	n := b.p.state.Load().Node(node)
	if n == nil || n.State == cluster.NodeLost || node == b.p.a.id.Name {
		return nil
	}
	to := &url.URL{Scheme: "https", Host: netip.AddrPortFrom(b.p.peers.network.NodeAddr(n.Number), cluster.PortRegistry).String()}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     b.p.peers.transport,
		FlushInterval: -1,
	}
}

// commitShown commits, and returns when this node's copy has it: what a client was told it finds.
func (p *parts) commitShown(ctx context.Context, t cluster.Txn) error {
	revision, ok, err := p.store.Commit(ctx, t)
	if err != nil {
		return fmt.Errorf("the ledger did not take it: %w", err)
	}
	if !ok {
		return registry.ErrConflict
	}
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for p.state.Load().Revision < revision {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the ledger has it, this node's copy not yet: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// jobImages tells which jobs that have not ended are made of which images.
func (p *parts) jobImages(ctx context.Context) (map[string]string, error) {
	list, err := p.store.List(ctx, job.KeySpecs)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range list {
		var j job.Job
		if err := json.Unmarshal(e.Data, &j); err != nil {
			return nil, fmt.Errorf("record of job %s: %w", e.Key, err)
		}
		if !j.State.Ended() {
			out[j.Spec.ImageDigest] = "job " + j.ID
		}
	}
	return out, nil
}

// origins are where an image of a registry can be had: its mirrors, then itself.
func (p *parts) origins(ctx context.Context, host string) ([]container.Origin, error) {
	st := p.state.Load()
	of := func(host string) (container.Origin, error) {
		o := container.Origin{Host: host}
		h := st.RegistryHost(host)
		if h == nil || h.User == "" {
			return o, nil
		}
		password, err := p.store.Secret(ctx, cluster.RegistrySecret(host))
		if err != nil {
			return o, fmt.Errorf("password of %s at %s: %w", h.User, host, err)
		}
		o.User, o.Password = h.User, string(password)
		return o, nil
	}
	hosts := []string{}
	if h := st.RegistryHost(host); h != nil {
		hosts = append(hosts, h.Mirrors...)
	}
	var out []container.Origin
	for _, h := range append(hosts, host) {
		o, err := of(h)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// serveRegistry answers docker, skopeo and the like, and tidies up after them.
func (p *parts) serveRegistry(ctx context.Context, serverTLS *tls.Config) {
	reg := registry.New(p.a.id.Name, registryBackend{p}, registry.Limits{}, p.a.log.With("part", "registry"))
	p.a.wg.Go(func() { p.tidy(ctx, reg) })
	l, err := net.Listen("tcp", ":"+strconv.Itoa(cluster.PortRegistry))
	if err != nil {
		p.a.log.Error("there is no registry on this node", "err", err)
		return
	}
	defer l.Close()
	serverTLS = serverTLS.Clone()
	serverTLS.MinVersion, serverTLS.ClientAuth = tls.VersionTLS12, tls.NoClientCert
	serverTLS.NextProtos = []string{"h2", "http/1.1"}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	srv := &http.Server{
		Protocols: protocols, Handler: reg, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(tls.NewListener(l, serverTLS)); err != nil && ctx.Err() == nil {
		p.a.log.Error("the registry has ended", "err", err)
	}
}

// tidy removes what nobody needs: abandoned uploads, names that the ledger does not have, blobs without a name, and, when
// room is short, images.
func (p *parts) tidy(ctx context.Context, reg *registry.Registry) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	missed := map[string]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if n := reg.Sweep(now); n > 0 {
			p.a.log.Info("abandoned uploads are removed", "uploads", n)
		}
		if err := errors.Join(p.forgetImages(ctx, missed, now), p.images.Tidy(), p.makeRoom(ctx, now)); err != nil && ctx.Err() == nil {
			p.a.log.Warn("images that can go are not all removed", "err", err)
		}
	}
}

// forgetImages has this node's store forget names that the ledger does not have.
func (p *parts) forgetImages(ctx context.Context, missed map[string]time.Time, now time.Time) error {
	st := p.state.Load()
	refs := retention.Forget(p.images.List(), st, retention.InUse(st, nil), missed, now)
	if len(refs) == 0 {
		return nil
	}
	jobs, err := p.jobImages(ctx) // seldom: the ledger is asked only if there is something to forget
	if err != nil {
		return err
	}
	var errs []error
	for _, ref := range retention.Forget(p.images.List(), st, retention.InUse(st, jobs), missed, now) {
		errs = append(errs, p.images.Remove(ref))
	}
	return errors.Join(errs...)
}

// makeRoom forgets images that can be had again while this node's image memory is almost full.
func (p *parts) makeRoom(ctx context.Context, now time.Time) error {
	room, err := p.imageRoom()
	if err != nil || !room.Short() {
		return err
	}
	jobs, err := p.jobImages(ctx)
	if err != nil {
		return err
	}
	st := p.state.Load()
	size := func(digest string) int64 {
		f, size, err := p.images.Blob(digest)
		if err != nil {
			return 0
		}
		f.Close()
		return size
	}
	plan := retention.Plan(st, retention.InUse(st, jobs), retention.Space, room, size, now)
	if len(plan) == 0 {
		return nil
	}
	plan = plan[:min(len(plan), 40)] // the ledger takes 128 operations at once; the rest is for the next round
	t := retention.Drop(plan)
	for _, r := range plan {
		t.Events = append(t.Events, cluster.Event{Time: now, Node: p.a.id.Name, Kind: cluster.EventImage, Subject: "image " + r.Ref,
			Text: "removed to make room: " + r.Why, Why: fmt.Sprintf("the image memory of %s has %d MB free of %d", p.a.id.Name, room.Free/1e6, room.Size/1e6)})
	}
	_, _, err = p.store.Commit(ctx, t) // if somebody was quicker, the next round looks again
	return err
}

// imageRoom is how much room this node's images have.
func (p *parts) imageRoom() (retention.Room, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.a.path("images"), &st); err != nil {
		return retention.Room{}, fmt.Errorf("room for images: %w", err)
	}
	return retention.Room{Free: int64(st.Bavail) * st.Bsize, Size: int64(st.Blocks) * st.Bsize}, nil
}
