package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/skein-os/skein/agent/cluster"
)

// Limits bound what a stranger's image may take. The zero value of a field means its default.
type Limits struct {
	Document int64 // bytes of one index, manifest or image config; 4 MiB
	Archive  int64 // bytes of all files of one archive, or all blobs of one image; 4 GiB
	Entries  int   // entries of one archive; 10,000
	Unpacked int64 // bytes of all files of one unpacked image; 8 GiB
	Files    int   // entries of all layers of one image; 500,000 (each costs an inode)
	Images   int   // images of one archive; 256
	Layers   int   // layers of one image; 128
}

func (l Limits) withDefaults() Limits {
	set := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	setInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Document, 4<<20)
	set(&l.Archive, 4<<30)
	setInt(&l.Entries, 10_000)
	set(&l.Unpacked, 8<<30)
	setInt(&l.Files, 500_000)
	setInt(&l.Images, 256)
	setInt(&l.Layers, 128)
	return l
}

// Images is the node's store of images. Its methods may be called concurrently.
//
//	blobs/sha256/<hex>   content
//	ingest/              blobs that are being written; emptied when the store is opened
//	roots/<hex>/         unpacked images, by manifest digest
//	images.json          names
type Images struct {
	// Origins tells where images of a registry can be had, in order. It is set before the first pull; nil: at the registry,
	// without credentials.
	Origins func(ctx context.Context, host string) ([]Origin, error)

	dir    string
	limits Limits
	log    *slog.Logger

	mu      sync.Mutex
	refs    map[string]cluster.Image
	writers int                  // loads, pulls and fetches in progress; their blobs have no name yet
	garbage bool                 // a sweep is due as soon as writers is zero
	unpacks map[string]*unpack   // by manifest digest, in progress
	held    map[string]time.Time // hex digests of blobs that no name needs yet, and until when they stay
}

// OpenImages opens the store in dir, or makes it. What a crashed predecessor left half done is removed.
func OpenImages(dir string, limits Limits, log *slog.Logger) (*Images, error) {
	s := &Images{dir: dir, limits: limits.withDefaults(), log: log,
		refs: map[string]cluster.Image{}, unpacks: map[string]*unpack{}, held: map[string]time.Time{}}
	if err := os.RemoveAll(s.path("ingest")); err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	for _, d := range []string{"blobs/sha256", "ingest", "roots"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	data, err := os.ReadFile(s.path("images.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("open image store: %w", err)
	default:
		if err := json.Unmarshal(data, &s.refs); err != nil {
			return nil, fmt.Errorf("open image store: %s: %w; remove the file to start without images", s.path("images.json"), err)
		}
	}
	half, err := filepath.Glob(s.path("roots", "*.part"))
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	for _, p := range half {
		if err := os.RemoveAll(p); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.sweep()
}

func (s *Images) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// List is all named images, sorted by name.
func (s *Images) List() []cluster.Image {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.refs), func(a, b cluster.Image) int { return strings.Compare(a.Ref, b.Ref) })
}

// Find looks an image up by manifest digest if one is given, else by reference.
func (s *Images) Find(ref, digest string) (cluster.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if digest != "" {
		for _, im := range s.refs {
			if im.Digest == digest {
				return im, nil
			}
		}
		return cluster.Image{}, fmt.Errorf("image %s (%s): %w on this node", ref, digest, ErrNotFound)
	}
	n, err := Normalize(ref)
	if err != nil {
		return cluster.Image{}, err
	}
	im, ok := s.refs[n]
	if !ok {
		return cluster.Image{}, fmt.Errorf("image %s: %w on this node", n, ErrNotFound)
	}
	return im, nil
}

// Remove forgets a name. Blobs and the unpacked image go with the last name that needs them; running
// containers are not disturbed as long as they have the image's directory open, but must not be started
// again, so remove only what no instance uses.
func (s *Images) Remove(ref string) error {
	n, err := Normalize(ref)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.refs[n]; !ok {
		return fmt.Errorf("remove image %s: %w on this node", n, ErrNotFound)
	}
	delete(s.refs, n)
	if err := s.saveRefs(); err != nil {
		return fmt.Errorf("remove image %s: %w", n, err)
	}
	return s.sweep()
}

// Normalize is the one way a reference is written as a name: without the default registry or the cluster's own, with
// a tag.
func Normalize(ref string) (string, error) {
	ref = cluster.PlainRef(ref)
	r, err := name.ParseReference(ref)
	if err != nil {
		return "", fmt.Errorf("image reference %q: %w; write it like demo/web:1 or registry.example.org/demo/web:1", ref, err)
	}
	repo, registry := r.Context().RepositoryStr(), r.Context().RegistryStr()
	if registry == name.DefaultRegistry {
		repo = strings.TrimPrefix(repo, "library/")
	} else {
		repo = registry + "/" + repo
	}
	if _, ok := r.(name.Digest); ok {
		return repo + "@" + r.Identifier(), nil
	}
	return repo + ":" + r.Identifier(), nil
}

// begin and end bracket every operation that writes blobs before it names them: no sweep in between may
// take them for garbage.
func (s *Images) begin() {
	s.mu.Lock()
	s.writers++
	s.mu.Unlock()
}

func (s *Images) end(failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writers--
	s.garbage = s.garbage || failed
	if s.garbage {
		if err := s.sweep(); err != nil {
			s.log.Warn("image store: could not remove garbage", "err", err)
		}
	}
}

// add names an image whose blobs are all in the store. If the name meant another image before, that one
// stays under its digest (demo/web@sha256:...): instances of it may run, and start again.
func (s *Images) add(im cluster.Image) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := maps.Clone(s.refs)
	if old, ok := s.refs[im.Ref]; ok && old.Top() != im.Top() {
		old = old.ByDigest()
		s.refs[old.Ref] = old
	}
	s.refs[im.Ref] = im
	if err := s.saveRefs(); err != nil {
		s.refs = before
		return fmt.Errorf("record image %s: %w", im.Ref, err)
	}
	for _, b := range im.Blobs {
		delete(s.held, strings.TrimPrefix(b, "sha256:")) // the name keeps it from now on
	}
	return nil
}

func (s *Images) saveRefs() error {
	data, err := json.MarshalIndent(s.refs, "", " ")
	if err != nil {
		return err
	}
	return full(s.dir, writeFile(s.path("images.json"), data, 0o600))
}

// sweep removes all blobs and unpacked images that no name needs. The caller holds mu.
func (s *Images) sweep() error {
	if s.writers > 0 || len(s.unpacks) > 0 {
		s.garbage = true
		return nil
	}
	s.garbage = false
	keep := map[string]bool{}
	now := time.Now()
	for h, until := range s.held {
		if now.After(until) {
			delete(s.held, h)
			continue
		}
		keep["blobs/sha256/"+h] = true
	}
	for _, im := range s.refs {
		for _, b := range im.Blobs {
			keep["blobs/sha256/"+strings.TrimPrefix(b, "sha256:")] = true
		}
		keep["roots/"+strings.TrimPrefix(im.Digest, "sha256:")] = true
	}
	var errs []error
	for _, dir := range []string{"blobs/sha256", "roots"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			if !keep[dir+"/"+e.Name()] {
				errs = append(errs, os.RemoveAll(s.path(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// platform tells whether an entry of an index is for this machine. One that states nothing is for all.
func platform(p *v1.Platform) bool {
	return p == nil || p.OS == "" && p.Architecture == "" || p.OS == "linux" && p.Architecture == runtime.GOARCH
}

// writeFile replaces a file as a whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return os.Rename(tmp, path)
}
