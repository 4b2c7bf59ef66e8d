package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/skein-os/skein/agent/cluster"
)

// Peer is another node that may have an image's blobs.
type Peer interface {
	// Fetch opens a blob. The store checks what comes.
	Fetch(ctx context.Context, digest string) (io.ReadCloser, error)
}

// PeerFunc is a Peer made of a function.
type PeerFunc func(ctx context.Context, digest string) (io.ReadCloser, error)

// Fetch calls f.
func (f PeerFunc) Fetch(ctx context.Context, digest string) (io.ReadCloser, error) {
	return f(ctx, digest)
}

// Origin is where images of a registry can be had: itself, or a mirror with the same repositories.
type Origin struct {
	Host           string
	User, Password string // User empty: without credentials
}

// dockerHub is what Docker's registry is called in references, and where it is.
const dockerHub, dockerHubHost = "docker.io", name.DefaultRegistry

// origins are where an image can be had, in the order in which to ask.
func (s *Images) origins(ctx context.Context, r name.Reference) ([]Origin, error) {
	host := r.Context().RegistryStr()
	if host == dockerHubHost {
		host = dockerHub
	}
	if s.Origins == nil {
		return []Origin{{Host: host}}, nil
	}
	return s.Origins(ctx, host)
}

// at is the same image at an origin.
func (o Origin) at(r name.Reference) (name.Reference, error) {
	host := o.Host
	if host == dockerHub {
		host = dockerHubHost
	}
	repo := host + "/" + r.Context().RepositoryStr()
	if d, ok := r.(name.Digest); ok {
		return name.NewDigest(repo + "@" + d.DigestStr())
	}
	return name.NewTag(repo + ":" + r.Identifier())
}

// sealed refuses to send credentials to another machine without TLS: whoever is on the wire could read them.
type sealed struct{ http.RoundTripper }

func (t sealed) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && r.Header.Get("Authorization") != "" {
		if ip := net.ParseIP(r.URL.Hostname()); r.URL.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fmt.Errorf("%s has no TLS: the password is not sent to it", r.URL.Host)
		}
	}
	return t.RoundTripper.RoundTrip(r)
}

// Pull gets an image from its registry or a mirror of it, with the credentials that there are for them.
func (s *Images) Pull(ctx context.Context, ref string) (cluster.Image, error) {
	if cluster.PlainRef(ref) != ref {
		return cluster.Image{}, fmt.Errorf("image %s: it is in the cluster's own registry: there is nothing to fetch", ref)
	}
	norm, err := Normalize(ref)
	if err != nil {
		return cluster.Image{}, err
	}
	r, err := name.ParseReference(ref)
	if err != nil {
		return cluster.Image{}, fmt.Errorf("image reference %q: %w", ref, err)
	}
	im, err := s.pullFrom(ctx, norm, r)
	if err != nil {
		return cluster.Image{}, fmt.Errorf("pull image %s from %s: %w; if the registry cannot be reached from here, use 'skein image load' with an archive of the image", norm, r.Context().RegistryStr(), err)
	}
	return im, nil
}

// pullFrom asks the origins one after the other.
func (s *Images) pullFrom(ctx context.Context, norm string, r name.Reference) (cluster.Image, error) {
	origins, err := s.origins(ctx, r)
	if err != nil {
		return cluster.Image{}, err
	}
	var errs []error
	for _, o := range origins {
		at, err := o.at(r)
		if err == nil {
			var im cluster.Image
			if im, err = s.pull(ctx, norm, r, at, o); err == nil {
				return im, nil
			}
		}
		if len(origins) > 1 {
			err = fmt.Errorf("%s: %w", o.Host, err)
		}
		errs = append(errs, err)
	}
	return cluster.Image{}, errors.Join(errs...)
}

// pull gets the image r from at, which is r's registry or a mirror.
func (s *Images) pull(ctx context.Context, norm string, r, at name.Reference, o Origin) (im cluster.Image, err error) {
	s.begin()
	defer func() { s.end(err != nil) }()
	auth := authn.Anonymous
	if o.User != "" {
		auth = authn.FromConfig(authn.AuthConfig{Username: o.User, Password: o.Password})
	}
	img, err := remote.Image(at, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(sealed{remote.DefaultTransport}),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		return im, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return im, err
	}
	m, err := parseManifest(raw, s.limits)
	if err != nil {
		return im, err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return im, err
	}
	for _, doc := range [][]byte{raw, config} {
		if _, err := s.putBytes(ctx, doc); err != nil {
			return im, err
		}
	}
	for _, d := range m.Layers {
		if s.HasBlob(d.Digest.String()) {
			continue
		}
		layer, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return im, err
		}
		rc, err := layer.Compressed()
		if err != nil {
			return im, err
		}
		_, _, err = s.put(ctx, d.Digest.String(), d.Size, rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			return im, err
		}
	}
	digest, err := img.Digest()
	if err != nil {
		return im, err
	}
	if im, err = s.describe(norm, digest.String(), r.Context().RegistryStr(), m); err != nil {
		return im, err
	}
	return im, s.add(im)
}

// FetchFrom gets the blobs of an image that the cluster knows from a peer, those that are missing here.
// The record is trusted for the manifest's digest only; everything else follows from the manifest.
func (s *Images) FetchFrom(ctx context.Context, peer Peer, want cluster.Image) (err error) {
	s.begin()
	defer func() { s.end(err != nil) }()
	im, err := s.record(ctx, want.Ref, want.Top(), want.Source, closure{s: s, fetch: peer.Fetch, sizes: map[string]int64{}})
	if err != nil {
		return fmt.Errorf("fetch image %s: %w", want.Ref, err)
	}
	if im.Digest != want.Digest && !want.Artifact {
		return fmt.Errorf("fetch image %s: %s is not an image that runs here", want.Ref, want.Digest)
	}
	im.Digest, im.Loaded = want.Digest, want.Loaded
	return s.add(im)
}

// Ensure makes an image ready to start: its blobs here, unpacked. It tries the peers in order, then, if
// the image came from a registry, that. If everything is there already it costs one map look-up.
func (s *Images) Ensure(ctx context.Context, want cluster.Image, peers ...Peer) error {
	if here, err := s.Find(want.Ref, want.Digest); err == nil && s.complete(here, want) {
		if want.Artifact {
			return nil
		}
		_, err := s.Prepare(ctx, here.Digest)
		return err
	}
	if want.Digest == "" {
		return fmt.Errorf("image %s: %w on this node, and without its digest it cannot be fetched from another", want.Ref, ErrNotFound)
	}
	var errs []error
	for _, p := range peers {
		err := s.FetchFrom(ctx, p, want)
		if err == nil && want.Artifact {
			return nil
		}
		if err == nil {
			_, err = s.Prepare(ctx, want.Digest)
			return err
		}
		errs = append(errs, err)
	}
	if want.Source != "" && want.Source != SourceArchive && want.Source != SourcePush {
		// By digest: the tag may mean another image today.
		r, err := name.ParseReference(want.Ref)
		if err != nil {
			return fmt.Errorf("image reference %q: %w", want.Ref, err)
		}
		_, err = s.pullFrom(ctx, want.Ref, r.Context().Digest(want.Digest))
		if err == nil {
			_, err = s.Prepare(ctx, want.Digest)
			return err
		}
		errs = append(errs, fmt.Errorf("pull from %s: %w", want.Source, err))
	}
	if len(errs) == 0 {
		return fmt.Errorf("image %s (%.19s): %w on this node, and no other node was offered that has it", want.Ref, want.Digest, ErrNotFound)
	}
	return fmt.Errorf("image %s (%.19s): no source could give it: %w", want.Ref, want.Digest, errors.Join(errs...))
}

// complete tells whether what is here under a digest is all of what is wanted, and gives it the name that is wanted: the
// blobs of a name that is missing would go with the last other one.
func (s *Images) complete(here, want cluster.Image) bool {
	for _, b := range want.Blobs {
		if !slices.Contains(here.Blobs, b) && !s.HasBlob(b) {
			return false
		}
	}
	if want.Digest == "" || want.Ref == here.Ref || len(want.Blobs) == 0 {
		return true
	}
	if named, err := s.Find(want.Ref, ""); err == nil && named.Digest == want.Digest && named.Index == want.Index {
		return true
	}
	if err := s.add(want); err != nil {
		s.log.Warn("image store: a second name is not recorded", "image", want.Ref, "err", err)
	}
	return true
}
