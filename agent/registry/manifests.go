package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

// Media types that answers are made of.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
)

func (g *Registry) manifest(q *request, read bool) error {
	if strings.Contains(q.rest, ":") {
		if err := checkDigest(q.rest); err != nil {
			return err
		}
	} else if !tagForm.MatchString(q.rest) {
		return refuse(http.StatusBadRequest, codeManifestInvalid, "tag %.140q: a tag has up to 128 letters, digits, dots, dashes and underscores", q.rest)
	}
	switch {
	case read:
		return g.getManifest(q)
	case q.Method == http.MethodPut:
		return g.putManifest(q)
	case q.Method == http.MethodDelete:
		return g.deleteManifest(q)
	}
	return notAllowed("GET, HEAD, PUT and DELETE")
}

// named are the images of a repository.
func (g *Registry) named(repo string) []cluster.Image {
	var out []cluster.Image
	for _, im := range g.backend.Images() {
		if r, _, _ := cluster.SplitRef(im.Ref); r == repo {
			out = append(out, im)
		}
	}
	return out
}

// digestOf finds what a tag or digest of the repository is. A part of an index is found by its digest, too.
func (g *Registry) digestOf(q *request) (string, error) {
	list := g.named(q.repo)
	for _, im := range list {
		_, tag, _ := cluster.SplitRef(im.Ref)
		if tag == q.rest || im.Top() == q.rest || slices.Contains(im.Blobs, q.rest) {
			if tag == q.rest {
				return im.Top(), nil
			}
			return q.rest, nil
		}
	}
	if len(list) == 0 {
		return "", refuse(http.StatusNotFound, codeNameUnknown, "there is no repository %s", q.repo)
	}
	return "", refuse(http.StatusNotFound, codeManifestUnknown, "%s has no %s", q.repo, q.rest)
}

// read reads a manifest or index whole, and tells its media type.
func (g *Registry) read(q *request, digest string) (data []byte, kind string, err error) {
	f, size, err := g.backend.Open(q.Context(), digest)
	if err != nil {
		return nil, "", storeError(err, codeManifestUnknown)
	}
	defer f.Close()
	if size > g.limits.Document {
		return nil, "", refuse(http.StatusNotFound, codeManifestUnknown, "%s is no manifest", digest)
	}
	if data, err = io.ReadAll(f); err != nil {
		return nil, "", err
	}
	if kind, err = container.ManifestType(data); err != nil {
		return nil, "", refuse(http.StatusNotFound, codeManifestUnknown, "%s is no manifest: %v", digest, err)
	}
	return data, kind, nil
}

func (g *Registry) getManifest(q *request) error {
	digest, err := g.digestOf(q)
	if err != nil {
		return err
	}
	data, kind, err := g.read(q, digest)
	if err != nil {
		return err
	}
	h := q.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Docker-Content-Digest", digest)
	h.Set("Etag", `"`+digest+`"`)
	http.ServeContent(q.w, q.Request, "", time.Time{}, bytes.NewReader(data))
	return nil
}

// putManifest is the end of a push.
func (g *Registry) putManifest(q *request) error {
	if !ours(q.repo) {
		return refuse(http.StatusForbidden, codeDenied, "%s is the name of images that come from another registry; push under a name without a host", q.repo)
	}
	if err := ignoreUnsupported(http.NewResponseController(q.w).SetReadDeadline(time.Now().Add(g.limits.Stall))); err != nil {
		return err
	}
	data, err := io.ReadAll(http.MaxBytesReader(q.w, q.Body, g.limits.Document))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return refuse(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a manifest may have %d bytes", g.limits.Document)
	}
	if err != nil {
		return refuse(http.StatusBadRequest, codeManifestInvalid, "the manifest did not come whole: %v", err)
	}
	kind, err := container.ManifestType(data)
	if err != nil {
		return refuse(http.StatusBadRequest, codeManifestInvalid, "%v", err)
	}
	if v := q.Header.Get("Content-Type"); v != "" {
		if stated, _, err := mime.ParseMediaType(v); err != nil || stated != kind {
			return refuse(http.StatusBadRequest, codeManifestInvalid, "Content-Type is %.100q, the manifest is %s", v, kind)
		}
	}
	sum := sha256.Sum256(data)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	ref := q.repo + ":" + q.rest
	if strings.Contains(q.rest, ":") {
		if q.rest != digest {
			return refuse(http.StatusBadRequest, codeDigestInvalid, "the manifest has %s, not %s", digest, q.rest)
		}
		ref = q.repo + "@" + digest
	}
	up, err := g.backend.NewUpload(g.limits.Document)
	if err != nil {
		return storeError(err, codeManifestInvalid)
	}
	if _, err := up.Write(data); err != nil {
		return errors.Join(storeError(err, codeManifestInvalid), up.Cancel())
	}
	if err := up.Commit(digest); err != nil {
		return storeError(err, codeManifestInvalid)
	}
	err = g.backend.Tag(q.Context(), q.user, ref, digest)
	switch {
	case errors.Is(err, container.ErrNotFound):
		return refuse(http.StatusBadRequest, codeManifestBlobUnknown, "%v", err)
	case err != nil:
		return storeError(err, codeManifestInvalid)
	}
	if subject := about(data).Subject; subject != nil {
		q.w.Header().Set("Oci-Subject", subject.Digest)
	}
	q.location("/manifests/%s", digest)
	q.w.Header().Set("Docker-Content-Digest", digest)
	q.w.WriteHeader(http.StatusCreated)
	return nil
}

func (g *Registry) deleteManifest(q *request) error {
	digest, err := g.digestOf(q)
	if err != nil {
		return err
	}
	var refs []string
	for _, im := range g.named(q.repo) {
		_, tag, _ := cluster.SplitRef(im.Ref)
		if tag == q.rest || q.rest == digest && im.Top() == digest {
			refs = append(refs, im.Ref)
		}
	}
	if len(refs) == 0 {
		return refuse(http.StatusForbidden, codeDenied, "%s is a part of an index; delete the index", digest)
	}
	if err := g.backend.Untag(q.Context(), q.user, refs); err != nil {
		return storeError(err, codeManifestUnknown)
	}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

func (g *Registry) tags(q *request) error {
	list := g.named(q.repo)
	if len(list) == 0 {
		return refuse(http.StatusNotFound, codeNameUnknown, "there is no repository %s", q.repo)
	}
	tags := []string{}
	for _, im := range list {
		if _, tag, _ := cluster.SplitRef(im.Ref); tag != "" {
			tags = append(tags, tag)
		}
	}
	page, err := g.page(q, tags, "/v2/"+q.name+"/tags/list")
	if err != nil {
		return err
	}
	return q.json("application/json", map[string]any{"name": q.name, "tags": page})
}

func (g *Registry) catalog(q *request) error {
	repos := []string{}
	for _, im := range g.backend.Images() {
		repo, _, _ := cluster.SplitRef(im.Ref)
		repos = append(repos, repo)
	}
	page, err := g.page(q, repos, "/v2/_catalog")
	if err != nil {
		return err
	}
	return q.json("application/json", map[string]any{"repositories": page})
}

// page is the part of a list that is asked for, sorted, and a link to the next one.
func (g *Registry) page(q *request, all []string, path string) ([]string, error) {
	slices.Sort(all)
	all = slices.Compact(all)
	query := q.URL.Query()
	n := g.limits.Page
	if v := query.Get("n"); v != "" {
		i, err := strconv.Atoi(v)
		if err != nil || i < 0 {
			return nil, refuse(http.StatusBadRequest, codeUnsupported, "n=%.40q is no number of entries", v)
		}
		n = min(n, i)
	}
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if n < len(all) {
		all = all[:n]
		if n > 0 {
			q.w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", path, url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}.Encode()))
		}
	}
	return all, nil
}

// descriptor is the specification's, with what an answer about referrers needs.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// aboutness is what a manifest says of another one, and of itself to those who look for it.
type aboutness struct {
	Subject      *descriptor       `json:"subject"`
	ArtifactType string            `json:"artifactType"`
	Config       descriptor        `json:"config"`
	Annotations  map[string]string `json:"annotations"`
}

func about(data []byte) aboutness {
	var a aboutness
	if json.Unmarshal(data, &a) != nil || a.Subject != nil && !digestForm.MatchString(a.Subject.Digest) {
		return aboutness{}
	}
	return a
}

// referrers lists the manifests whose subject is a digest: signatures, lists of parts.
func (g *Registry) referrers(q *request) error {
	if err := checkDigest(q.rest); err != nil {
		return err
	}
	list := []descriptor{}
	filter := q.URL.Query().Get("artifactType")
	seen := map[string]bool{}
	for _, im := range g.named(q.repo) {
		digest := im.Top()
		if seen[digest] {
			continue
		}
		seen[digest] = true
		data, kind, err := g.read(q, digest)
		if err != nil {
			return err
		}
		a := about(data)
		if a.Subject == nil || a.Subject.Digest != q.rest {
			continue
		}
		d := descriptor{MediaType: kind, Digest: digest, Size: int64(len(data)), ArtifactType: a.ArtifactType, Annotations: a.Annotations}
		if d.ArtifactType == "" && kind == typeManifest {
			d.ArtifactType = a.Config.MediaType
		}
		if filter == "" || filter == d.ArtifactType {
			list = append(list, d)
		}
	}
	if filter != "" {
		q.w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	return q.json(typeIndex, map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": list})
}

func (q *request) json(kind string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", kind)
	q.w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, err = q.w.Write(data)
	return ignoreGone(err)
}
