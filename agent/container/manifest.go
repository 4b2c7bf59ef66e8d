package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/skein-os/skein/agent/cluster"
)

// parseManifest reads an image manifest and checks all that is used of it.
func parseManifest(data []byte, limits Limits) (*v1.Manifest, error) {
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("image manifest: %w", err)
	}
	if m.Config.Digest == (v1.Hash{}) {
		return nil, fmt.Errorf("image manifest: it names no config; is it an index or something else than an image?")
	}
	if len(m.Layers) > limits.Layers {
		return nil, fmt.Errorf("image manifest: %d layers, at most %d are accepted: %w", len(m.Layers), limits.Layers, ErrTooLarge)
	}
	left := limits.Archive
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if _, err := hexDigest(d.Digest.String()); err != nil {
			return nil, fmt.Errorf("image manifest: %w", err)
		}
		if d.Size < 0 || d.Size > left {
			return nil, fmt.Errorf("image manifest: the image has more than %d bytes: %w", limits.Archive, ErrTooLarge)
		}
		left -= d.Size
	}
	if m.Config.Size > limits.Document {
		return nil, fmt.Errorf("image manifest: config of %d bytes, at most %d are accepted: %w", m.Config.Size, limits.Document, ErrTooLarge)
	}
	return m, nil
}

// resolve follows an index to the manifest for this machine.
func (s *Images) resolve(d v1.Descriptor) (digest string, m *v1.Manifest, err error) {
	// Two levels are what tools write (an archive's index, a platforms' index); four are plenty.
	for range 4 {
		digest = d.Digest.String()
		data, err := s.document(digest)
		if err != nil {
			return "", nil, err
		}
		if !isIndex(d.MediaType, data) {
			m, err := parseManifest(data, s.limits)
			return digest, m, err
		}
		index, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return "", nil, fmt.Errorf("image index %s: %w", digest, err)
		}
		next, err := pick(index.Manifests)
		if err != nil {
			return "", nil, fmt.Errorf("image index %s: %w", digest, err)
		}
		d = next
	}
	return "", nil, fmt.Errorf("image index %s: indexes within indexes, too deep", digest)
}

func isIndex(t types.MediaType, data []byte) bool {
	if t.IsIndex() || t.IsImage() {
		return t.IsIndex()
	}
	var doc struct {
		MediaType types.MediaType `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	return json.Unmarshal(data, &doc) == nil && (doc.MediaType.IsIndex() || doc.Manifests != nil)
}

// pick takes the first entry for this machine; attestations and the like state platform unknown/unknown.
func pick(ds []v1.Descriptor) (v1.Descriptor, error) {
	var have []string
	for _, d := range ds {
		if platform(d.Platform) {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	return v1.Descriptor{}, fmt.Errorf("no image for this machine's platform; there is %q", have)
}

// describe makes the cluster's record of an image, and checks that all its blobs are in the store.
func (s *Images) describe(ref, digest, source string, m *v1.Manifest) (cluster.Image, error) {
	f, size, err := s.Blob(digest)
	if err != nil {
		return cluster.Image{}, fmt.Errorf("image %s: %w", ref, err)
	}
	f.Close()
	im := cluster.Image{Ref: ref, Digest: digest, Size: size, Blobs: []string{digest}, Source: source, Loaded: time.Now().UTC()}
	seen := map[string]bool{digest: true}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		b := d.Digest.String()
		if seen[b] {
			continue // the same layer twice, e.g. an empty one
		}
		seen[b] = true
		f, size, err := s.Blob(b)
		if err != nil {
			return cluster.Image{}, fmt.Errorf("image %s is not whole: %w", ref, err)
		}
		f.Close()
		im.Blobs = append(im.Blobs, b)
		im.Size += size
	}
	return im, nil
}

// config reads the image's config: what to run, as whom, with what environment.
func (s *Images) config(m *v1.Manifest) (*v1.ConfigFile, error) {
	data, err := s.document(m.Config.Digest.String())
	if err != nil {
		return nil, err
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("image config %s: %w", m.Config.Digest, err)
	}
	return c, nil
}
