package container

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/skein-os/skein/agent/cluster"
)

// Names of an image in an archive's index, best first. The first is what docker and containerd write,
// whose ref.name is then only the tag.
const (
	annotationImageName = "io.containerd.image.name"
	annotationRefName   = "org.opencontainers.image.ref.name"
)

// SourceArchive is Image.Source of images that came by Load.
const SourceArchive = "archive"

var blobPath = regexp.MustCompile(`^blobs/sha256/([0-9a-f]{64})$`)

// Load reads a tar archive, gzipped or not, of an OCI image layout or of `docker save`, and returns the
// images in it that have a name. It reads the stream once, keeping blobs as they come. Either all images
// are there afterwards, or the error says which one is not right; blobs that no image needs are removed.
func (s *Images) Load(ctx context.Context, r io.Reader) (images []cluster.Image, err error) {
	s.begin()
	defer func() { s.end(true) }() // always sweep: an archive may hold blobs of unnamed images
	br := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := br.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("image archive: %w", err)
		}
		defer zr.Close()
		br = bufio.NewReaderSize(zr, 64<<10)
	}
	a := archive{images: s, left: s.limits.Archive, files: map[string]string{}, links: map[string]string{}}
	if err := a.read(ctx, tar.NewReader(br)); err != nil {
		return nil, fmt.Errorf("image archive: %w", err)
	}
	named, err := a.named(ctx)
	if err != nil {
		return nil, fmt.Errorf("image archive: %w", err)
	}
	for _, n := range named {
		digest, m, err := s.resolve(n.desc)
		if err != nil {
			return nil, fmt.Errorf("image archive: image %s: %w", n.ref, err)
		}
		if _, err := s.config(m); err != nil {
			return nil, fmt.Errorf("image archive: image %s: %w", n.ref, err)
		}
		im, err := s.describe(n.ref, digest, SourceArchive, m)
		if err != nil {
			return nil, fmt.Errorf("image archive: %w", err)
		}
		images = append(images, im)
	}
	for _, im := range images {
		if err := s.add(im); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// archive is what was seen of one archive.
type archive struct {
	images *Images
	left   int64             // bytes that may still come
	index  []byte            // index.json: the archive is an OCI layout
	docker []byte            // manifest.json: the archive is, perhaps also, of docker save
	files  map[string]string // other files, to their digest
	links  map[string]string // docker's way to name a layer twice
}

type namedImage struct {
	ref  string
	desc v1.Descriptor
}

func (a *archive) read(ctx context.Context, tr *tar.Reader) error {
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w; an OCI image layout or the output of 'docker save' is needed, as tar or tar.gz", n+1, err)
		}
		if n >= a.images.limits.Entries {
			return fmt.Errorf("more than %d entries: %w", a.images.limits.Entries, ErrTooLarge)
		}
		// Cleaned with a leading slash, ".." can climb no higher than the root of the archive.
		p := path.Clean("/" + h.Name)[1:]
		if len(p) > 512 {
			return fmt.Errorf("entry %d: name of %d bytes: %w", n+1, len(p), ErrTooLarge)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeSymlink:
			a.links[p] = path.Clean("/" + path.Join(path.Dir(p), h.Linkname))[1:]
			continue
		case tar.TypeReg:
		default:
			return fmt.Errorf("entry %q: type %q has no place in an image archive", p, h.Typeflag)
		}
		if h.Size < 0 || h.Size > a.left {
			return fmt.Errorf("entry %q: the archive holds more than %d bytes: %w", p, a.images.limits.Archive, ErrTooLarge)
		}
		a.left -= h.Size
		if err := a.file(ctx, p, h.Size, tr); err != nil {
			return fmt.Errorf("entry %q: %w", p, err)
		}
	}
}

func (a *archive) file(ctx context.Context, p string, size int64, r io.Reader) error {
	small := func() ([]byte, error) {
		if size > a.images.limits.Document {
			return nil, fmt.Errorf("%d bytes: %w", size, ErrTooLarge)
		}
		return io.ReadAll(r)
	}
	var err error
	switch m := blobPath.FindStringSubmatch(p); {
	case m != nil:
		_, _, err = a.images.put(ctx, "sha256:"+m[1], size, r)
		a.files[p] = "sha256:" + m[1]
	case p == "index.json":
		a.index, err = small()
	case p == "manifest.json":
		a.docker, err = small()
	case p == "oci-layout" || p == "repositories" || path.Base(p) == "VERSION":
		// Nothing in them is needed.
	default:
		a.files[p], _, err = a.images.put(ctx, "", size, r)
	}
	return err
}

func (a *archive) named(ctx context.Context) ([]namedImage, error) {
	switch {
	case a.index != nil:
		return parseIndex(a.index, a.images.limits)
	case a.docker != nil:
		return a.fromDocker(ctx)
	}
	return nil, errors.New("neither index.json nor manifest.json in it; an OCI image layout or the output of 'docker save' is needed, as tar or tar.gz")
}

// parseIndex reads index.json of an OCI image layout. It is a parser of a stranger's bytes.
func parseIndex(data []byte, limits Limits) ([]namedImage, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	if len(index.Manifests) > limits.Images {
		return nil, fmt.Errorf("index.json: %d images, at most %d are accepted: %w", len(index.Manifests), limits.Images, ErrTooLarge)
	}
	var out []namedImage
	for _, d := range index.Manifests {
		if _, err := hexDigest(d.Digest.String()); err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
		ref := d.Annotations[annotationImageName]
		if ref == "" {
			ref = d.Annotations[annotationRefName]
		}
		if ref == "" || !platform(d.Platform) {
			continue
		}
		ref, err := Normalize(ref)
		if err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
		out = append(out, namedImage{ref, d})
	}
	return out, nil
}

// fromDocker makes OCI manifests for the images of an old `docker save`, which has none.
func (a *archive) fromDocker(ctx context.Context) ([]namedImage, error) {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(a.docker, &list); err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(list) > a.images.limits.Images {
		return nil, fmt.Errorf("manifest.json: %d images, at most %d are accepted: %w", len(list), a.images.limits.Images, ErrTooLarge)
	}
	var out []namedImage
	for _, e := range list {
		if len(e.RepoTags) == 0 {
			continue
		}
		if len(e.Layers) > a.images.limits.Layers {
			return nil, fmt.Errorf("manifest.json: %d layers, at most %d are accepted: %w", len(e.Layers), a.images.limits.Layers, ErrTooLarge)
		}
		m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
		var err error
		if m.Config, err = a.descriptor(e.Config, types.OCIConfigJSON); err != nil {
			return nil, err
		}
		for _, l := range e.Layers {
			d, err := a.descriptor(l, types.OCIUncompressedLayer)
			if err != nil {
				return nil, err
			}
			m.Layers = append(m.Layers, d)
		}
		data, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		digest, err := a.images.putBytes(ctx, data)
		if err != nil {
			return nil, err
		}
		h, err := v1.NewHash(digest)
		if err != nil {
			return nil, err
		}
		for _, tag := range e.RepoTags {
			ref, err := Normalize(tag)
			if err != nil {
				return nil, fmt.Errorf("manifest.json: %w", err)
			}
			if !slices.ContainsFunc(out, func(n namedImage) bool { return n.ref == ref }) {
				out = append(out, namedImage{ref, v1.Descriptor{MediaType: m.MediaType, Digest: h, Size: int64(len(data))}})
			}
		}
	}
	return out, nil
}

func (a *archive) descriptor(file string, t types.MediaType) (v1.Descriptor, error) {
	p := path.Clean("/" + file)[1:]
	for range 2 { // docker links a layer to its first occurrence, never further
		if to, ok := a.links[p]; ok {
			p = to
		}
	}
	digest, ok := a.files[p]
	if !ok {
		return v1.Descriptor{}, fmt.Errorf("manifest.json names %q, which is not in the archive", strings.ToValidUTF8(file, "?"))
	}
	h, err := v1.NewHash(digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	f, size, err := a.images.Blob(digest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: t, Digest: h, Size: size}, f.Close()
}
