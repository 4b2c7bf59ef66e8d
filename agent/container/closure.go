package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/skein-os/skein/agent/cluster"
)

// SourcePush is Image.Source of images that were pushed to the cluster's registry.
const SourcePush = "push"

// mostBlobs of all manifests under one name: its record is one value of the ledger, which takes 1 MiB.
const mostBlobs = 4000

// Fetch opens a blob elsewhere. The store checks what comes.
type Fetch func(ctx context.Context, digest string) (io.ReadCloser, error)

// closure is what follows from one manifest or index.
type closure struct {
	s     *Images
	fetch Fetch // nil: all must be here
	hold  bool  // blobs stay for HoldTime without a name
	sizes map[string]int64
	blobs []string
	total int64
	// subject of the manifest that was begun with.
	subject string
}

// get sees to it that a blob is here.
func (c *closure) get(ctx context.Context, digest string, limit int64) error {
	if _, ok := c.sizes[digest]; ok {
		return nil
	}
	if _, err := hexDigest(digest); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	size, err := c.size(digest)
	if errors.Is(err, ErrNotFound) && c.fetch != nil {
		var rc io.ReadCloser
		if rc, err = c.fetch(ctx, digest); err != nil {
			return err
		}
		_, size, err = c.s.put(ctx, digest, limit, rc)
		err = errors.Join(err, rc.Close())
	}
	if err != nil {
		return err
	}
	if c.total += size; c.total > c.s.limits.Archive {
		return fmt.Errorf("more than %d bytes: %w", c.s.limits.Archive, ErrTooLarge)
	}
	if len(c.blobs) >= mostBlobs {
		return fmt.Errorf("more than %d blobs: %w", mostBlobs, ErrTooLarge)
	}
	c.sizes[digest] = size
	c.blobs = append(c.blobs, digest)
	return nil
}

func (c *closure) size(digest string) (int64, error) {
	if c.hold {
		return c.s.Hold(digest)
	}
	f, size, err := c.s.Blob(digest)
	if err != nil {
		return 0, err
	}
	return size, f.Close()
}

// walk gets all that a manifest or index needs, and tells which manifest in it can be run here, "" if none.
func (c *closure) walk(ctx context.Context, digest string, depth int) (runs string, err error) {
	if depth > 4 {
		return "", fmt.Errorf("%w: indexes within indexes, too deep", ErrManifest)
	}
	if err := c.get(ctx, digest, c.s.limits.Document); err != nil {
		return "", err
	}
	data, err := c.s.document(digest)
	if err != nil {
		return "", err
	}
	kind, err := ManifestType(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w: %w", digest, ErrManifest, err)
	}
	if types.MediaType(kind).IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(data))
		if err != nil {
			return "", fmt.Errorf("%s: %w: %w", digest, ErrManifest, err)
		}
		if len(index.Manifests) > c.s.limits.Images {
			return "", fmt.Errorf("image index %s: %d manifests, at most %d are accepted: %w", digest, len(index.Manifests), c.s.limits.Images, ErrTooLarge)
		}
		for _, d := range index.Manifests {
			got, err := c.walk(ctx, d.Digest.String(), depth+1)
			if err != nil {
				return "", err
			}
			if runs == "" && platform(d.Platform) {
				runs = got
			}
		}
		return runs, nil
	}
	m, err := parseManifest(data, c.s.limits)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		err = fmt.Errorf("%s: %w: %w", digest, ErrManifest, err)
	}
	if err != nil {
		return "", err
	}
	if depth == 0 && m.Subject != nil {
		c.subject = m.Subject.Digest.String()
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		b := d.Digest.String()
		if err := c.get(ctx, b, d.Size); err != nil {
			return "", err
		}
		if c.sizes[b] != d.Size {
			return "", fmt.Errorf("image manifest %s: blob %s has %d bytes, not %d: %w", digest, b, c.sizes[b], d.Size, ErrDigest)
		}
	}
	if runnable(m) && c.here(m) {
		return digest, nil
	}
	return "", nil
}

// runnable tells whether a manifest is of a container image, by the media types it states.
func runnable(m *v1.Manifest) bool {
	switch m.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON:
	default:
		return false
	}
	for _, l := range m.Layers {
		if !l.MediaType.IsLayer() {
			return false
		}
	}
	return true
}

// here tells whether an image's config states this machine's platform, or none.
func (c *closure) here(m *v1.Manifest) bool {
	config, err := c.s.config(m)
	return err == nil && (config.OS == "" || config.OS == "linux") && (config.Architecture == "" || config.Architecture == runtime.GOARCH)
}

// ManifestType tells what a document is: the media type of an OCI or Docker manifest or index. One that does not say it
// itself is known by its parts. It is a parser of a stranger's bytes.
func ManifestType(data []byte) (string, error) {
	var doc struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", fmt.Errorf("it is not JSON: %w", err)
	}
	index, image := doc.Manifests != nil, doc.Config != nil || doc.Layers != nil
	switch {
	case doc.SchemaVersion != 2:
		return "", fmt.Errorf("schema version %d: only version 2 is accepted", doc.SchemaVersion)
	case index == image:
		return "", errors.New("it must be either an index, with manifests, or an image, with config and layers")
	case doc.MediaType == "" && index:
		return string(types.OCIImageIndex), nil
	case doc.MediaType == "":
		return string(types.OCIManifestSchema1), nil
	case index && doc.MediaType.IsIndex(), image && doc.MediaType.IsImage():
		return string(doc.MediaType), nil
	}
	return "", fmt.Errorf("media type %.80q is not what it holds", string(doc.MediaType))
}

// Record makes the cluster's record of what digest is, an image, an index or an artifact, after getting what is missing.
// Its blobs are held for HoldTime. Nothing is named: that is Add's part.
func (s *Images) Record(ctx context.Context, ref, digest, source string, fetch Fetch) (im cluster.Image, err error) {
	s.begin()
	defer func() { s.end(err != nil) }()
	return s.record(ctx, ref, digest, source, closure{s: s, fetch: fetch, hold: true, sizes: map[string]int64{}})
}

func (s *Images) record(ctx context.Context, ref, digest, source string, c closure) (im cluster.Image, err error) {
	if _, err := hexDigest(digest); err != nil {
		return im, err
	}
	runs, err := c.walk(ctx, digest, 0)
	if err != nil {
		return im, err
	}
	if c.hold {
		for b := range c.sizes {
			s.hold(strings.TrimPrefix(b, "sha256:"))
		}
	}
	im = cluster.Image{Ref: ref, Digest: runs, Size: c.total, Blobs: c.blobs, Source: source, Loaded: time.Now().UTC()}
	switch runs {
	case digest:
	case "":
		im.Digest, im.Artifact, im.Subject = digest, true, c.subject
	default:
		im.Index = digest
	}
	return im, nil
}

// Add names an image of which all blobs are here, as Record made it.
func (s *Images) Add(im cluster.Image) error { return s.add(im) }
