package registry

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/container"
)

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func checkDigest(d string) error {
	if !digestForm.MatchString(d) {
		return refuse(http.StatusBadRequest, codeDigestInvalid, "digest %.100q: only sha256: and 64 lower-case hex digits are accepted", d)
	}
	return nil
}

func (g *Registry) blob(q *request, read bool) error {
	if err := checkDigest(q.rest); err != nil {
		return err
	}
	if !read {
		if q.Method == http.MethodDelete {
			return refuse(http.StatusMethodNotAllowed, codeUnsupported, "a blob goes when no manifest needs it any more; delete the manifest")
		}
		return notAllowed("GET and HEAD")
	}
	f, _, err := g.backend.Open(q.Context(), q.rest)
	if err != nil {
		return storeError(err, codeBlobUnknown)
	}
	defer f.Close()
	if q.Method == http.MethodHead {
		// Who asks for a blob is about to push an image that has it, and will not send it. It is for Tag to find it.
		_, _ = g.backend.Hold(q.rest) // on another node it has a name
	}
	h := q.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", q.rest)
	h.Set("Etag", `"`+q.rest+`"`)
	h.Set("Cache-Control", "max-age=31536000, immutable")
	http.ServeContent(q.w, q.Request, "", time.Time{}, f)
	return nil
}

// session is an upload in progress.
type session struct {
	id, repo string
	busy     chan struct{} // holds one token while a request works on it
	blob     Upload
	// last is when the last byte came. Registry.mu guards it and size, so that both can be read while a request works.
	last time.Time
	size int64
	over bool
}

// upload answers all of /blobs/uploads/.
func (g *Registry) upload(q *request) error {
	if !ours(q.repo) {
		return refuse(http.StatusForbidden, codeDenied, "%s is the name of images that come from another registry; push under a name without a host", q.repo)
	}
	if q.rest == "" {
		if q.Method != http.MethodPost {
			return notAllowed("POST")
		}
		return g.begin(q)
	}
	if node, _, ok := strings.Cut(q.rest, "."); ok && node != g.self {
		if h := g.backend.Forward(node); h != nil {
			h.ServeHTTP(q.w, q.Request)
			return nil
		}
		return refuse(http.StatusNotFound, codeUploadUnknown, "upload %.80q was on node %.40s, which is not there any more; begin again", q.rest, node)
	}
	s, err := g.take(q)
	if err != nil {
		return err
	}
	switch q.Method {
	case http.MethodGet, http.MethodHead:
		g.state(q, s, http.StatusNoContent)
		return nil
	case http.MethodDelete:
		if err := g.lock(q, s); err != nil {
			return err
		}
		defer s.unlock()
		q.w.WriteHeader(http.StatusNoContent)
		return g.end(s)
	case http.MethodPatch:
		if err := g.lock(q, s); err != nil {
			return err
		}
		defer s.unlock()
		if err := g.receive(q, s); err != nil {
			return err
		}
		g.state(q, s, http.StatusAccepted)
		return nil
	case http.MethodPut:
		if err := checkDigest(q.URL.Query().Get("digest")); err != nil {
			return err
		}
		if err := g.lock(q, s); err != nil {
			return err
		}
		defer s.unlock()
		if err := g.receive(q, s); err != nil {
			return err
		}
		return g.finish(q, s)
	}
	return notAllowed("GET, PATCH, PUT and DELETE")
}

// begin answers POST: a mount, a whole blob, or the beginning of one.
func (g *Registry) begin(q *request) error {
	query := q.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		if err := checkDigest(mount); err != nil {
			return err
		}
		if g.mount(q, mount) {
			return nil
		}
	}
	digest := query.Get("digest")
	if digest != "" {
		if err := checkDigest(digest); err != nil {
			return err
		}
	}
	if q.ContentLength > g.limits.Blob {
		return refuse(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a blob may have %d bytes, this one has %d", g.limits.Blob, q.ContentLength)
	}
	g.mu.Lock()
	many := len(g.uploads) >= g.limits.Uploads
	s := &session{id: g.self + "." + rand.Text(), repo: q.repo, busy: make(chan struct{}, 1), last: time.Now()}
	if !many {
		g.uploads[s.id] = s
	}
	g.mu.Unlock()
	if many {
		q.w.Header().Set("Retry-After", "10")
		return refuse(http.StatusTooManyRequests, codeTooMany, "%d uploads are in progress on node %s; try again when some have ended", g.limits.Uploads, g.self)
	}
	s.busy <- struct{}{}
	defer s.unlock()
	blob, err := g.backend.NewUpload(g.limits.Blob)
	if err != nil {
		return errors.Join(storeError(err, codeUploadUnknown), g.end(s))
	}
	g.mu.Lock()
	s.blob = blob
	g.mu.Unlock()
	if digest == "" {
		g.state(q, s, http.StatusAccepted)
		return nil
	}
	if err := g.receive(q, s); err != nil {
		return errors.Join(err, g.end(s))
	}
	return g.finish(q, s)
}

// mount answers with the blob if this node has it.
func (g *Registry) mount(q *request, digest string) bool {
	if _, err := g.backend.Hold(digest); err != nil {
		f, _, err := g.backend.Open(q.Context(), digest)
		if err != nil {
			return false // the specification has it sent then
		}
		f.Close()
	}
	q.location("/blobs/%s", digest)
	q.w.Header().Set("Docker-Content-Digest", digest)
	q.w.WriteHeader(http.StatusCreated)
	return true
}

// take finds an upload.
func (g *Registry) take(q *request) (*session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.uploads[q.rest]; s != nil && s.repo == q.repo && s.blob != nil {
		return s, nil
	}
	return nil, refuse(http.StatusNotFound, codeUploadUnknown, "there is no upload %.80q to %s; it has ended, or nothing came for %s", q.rest, q.repo, g.limits.Idle)
}

// lock waits until no other request works on the upload: one whose connection was cut is noticed after Limits.Stall at
// the latest.
func (g *Registry) lock(q *request, s *session) error {
	timer := time.NewTimer(g.limits.Stall + time.Second)
	defer timer.Stop()
	select {
	case s.busy <- struct{}{}:
	case <-timer.C:
		return refuse(http.StatusConflict, codeUploadInvalid, "upload %s: another request is sending to it", s.id)
	case <-q.Context().Done():
		return q.Context().Err()
	}
	if s.over {
		s.unlock()
		return refuse(http.StatusNotFound, codeUploadUnknown, "upload %s has ended", s.id)
	}
	return nil
}

// unlock lets the next request work on the upload.
func (s *session) unlock() { <-s.busy }

// state tells how much has come.
func (g *Registry) state(q *request, s *session, status int) {
	g.mu.Lock()
	size := s.size
	g.mu.Unlock()
	q.location("/blobs/uploads/%s", s.id)
	q.w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, size-1)))
	q.w.Header().Set("Docker-Upload-Uuid", s.id)
	q.w.WriteHeader(status)
}

// receive appends the request's body. What came before an error stays.
func (g *Registry) receive(q *request, s *session) error {
	want := int64(-1) // bytes that the request states
	if v := q.Header.Get("Content-Range"); v != "" {
		from, to, ok := parseRange(v)
		if !ok {
			return refuse(http.StatusBadRequest, codeUploadInvalid, "Content-Range %.80q is not like 0-1023", v)
		}
		if from != s.blob.Size() {
			q.location("/blobs/uploads/%s", s.id)
			q.w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, s.blob.Size()-1)))
			return refuse(http.StatusRequestedRangeNotSatisfiable, codeUploadInvalid, "the upload has %d bytes, this piece begins at %d", s.blob.Size(), from)
		}
		want = to - from + 1
		if q.ContentLength >= 0 && q.ContentLength != want {
			return refuse(http.StatusBadRequest, codeSizeInvalid, "Content-Range %s states %d bytes, Content-Length %d", v, want, q.ContentLength)
		}
	}
	if left := g.limits.Blob - s.blob.Size(); max(want, q.ContentLength) > left {
		return refuse(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a blob may have %d bytes", g.limits.Blob)
	}
	body := io.Reader(q.Body)
	if want >= 0 {
		body = io.LimitReader(body, want)
	}
	rc := http.NewResponseController(q.w)
	buf := make([]byte, 128<<10)
	for {
		// A connection that says nothing would hold the upload, and memory. Not every server has deadlines.
		if err := rc.SetReadDeadline(time.Now().Add(g.limits.Stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		n, err := body.Read(buf)
		if n > 0 {
			_, werr := s.blob.Write(buf[:n])
			g.mu.Lock()
			s.last, s.size = time.Now(), s.blob.Size()
			g.mu.Unlock()
			if werr != nil {
				return storeError(werr, codeUploadInvalid)
			}
		}
		if errors.Is(err, io.EOF) {
			return ignoreUnsupported(rc.SetReadDeadline(time.Time{}))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return refuse(http.StatusRequestTimeout, codeUploadInvalid, "nothing came for %s; the upload has %d bytes", g.limits.Stall, s.blob.Size())
		}
		if err != nil {
			return refuse(http.StatusBadRequest, codeUploadInvalid, "the piece ended after %d bytes of the upload: %v", s.blob.Size(), err)
		}
	}
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// parseRange reads "0-1023", also with "bytes " or "bytes=" before it and a total behind, as some clients write it.
func parseRange(v string) (from, to int64, ok bool) {
	v = strings.TrimPrefix(strings.TrimPrefix(v, "bytes "), "bytes=")
	v, _, _ = strings.Cut(v, "/")
	a, b, ok := strings.Cut(v, "-")
	if !ok {
		return 0, 0, false
	}
	x, errA := strconv.ParseUint(a, 10, 62)
	y, errB := strconv.ParseUint(b, 10, 62)
	return int64(x), int64(y), errA == nil && errB == nil && x <= y
}

// finish makes a blob of the upload.
func (g *Registry) finish(q *request, s *session) error {
	digest := q.URL.Query().Get("digest")
	blob := s.blob
	g.forget(s)
	if err := blob.Commit(digest); err != nil {
		return storeError(err, codeUploadInvalid)
	}
	q.location("/blobs/%s", digest)
	q.w.Header().Set("Docker-Content-Digest", digest)
	q.w.WriteHeader(http.StatusCreated)
	return nil
}

// forget takes the upload off the list. The caller holds its lock.
func (g *Registry) forget(s *session) {
	s.over = true
	g.mu.Lock()
	delete(g.uploads, s.id)
	g.mu.Unlock()
}

// end removes an upload and what came of it. The caller holds its lock.
func (g *Registry) end(s *session) error {
	g.forget(s)
	if s.blob == nil {
		return nil
	}
	return s.blob.Cancel()
}

// Sweep removes the uploads for which nothing came for Limits.Idle. It is to be called every few minutes.
func (g *Registry) Sweep(now time.Time) (removed int) {
	g.mu.Lock()
	var old []*session
	for _, s := range g.uploads {
		if now.Sub(s.last) > g.limits.Idle {
			old = append(old, s)
		}
	}
	g.mu.Unlock()
	for _, s := range old {
		select {
		case s.busy <- struct{}{}:
		default:
			continue // a request works on it after all
		}
		if !s.over {
			removed++
			if err := g.end(s); err != nil {
				g.log.Warn("registry: an abandoned upload is not removed", "upload", s.id, "err", err)
			}
		}
		s.unlock()
	}
	return removed
}

var _ Upload = (*container.Upload)(nil)
