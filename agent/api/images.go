package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Image is an image that the cluster has.
type Image struct {
	cluster.Image
	Kept bool `json:"kept"` // on the cluster disk, where it outlasts a loss of all power
}

func (s *Server) images(w http.ResponseWriter, r *http.Request) error {
	st := s.backend.State()
	images := make([]Image, 0, len(st.Images))
	for i := range st.Images {
		images = append(images, Image{Image: st.Images[i], Kept: st.IsKept(&st.Images[i])})
	}
	writeJSON(w, http.StatusOK, images)
	return nil
}

func (s *Server) loadImage(w http.ResponseWriter, r *http.Request) error {
	images, err := s.backend.LoadImage(r.Context(), r.Body)
	if err != nil {
		return badRequest("load image: %w", err)
	}
	if err := s.recordImages(r, images, "loaded from an archive"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, images)
	return nil
}

func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) error {
	ref := r.URL.Query().Get("ref")
	img, err := s.backend.PullImage(r.Context(), ref)
	if err != nil {
		return badRequest("pull image %s: %w", ref, err)
	}
	if err := s.recordImages(r, []cluster.Image{img}, "pulled"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, []cluster.Image{img})
	return nil
}

func (s *Server) recordImages(r *http.Request, images []cluster.Image, how string) error {
	if len(images) == 0 {
		return badRequest("the archive holds no named image: give it a name with --name, or write org.opencontainers.image.ref.name into its index")
	}
	t := cluster.RecordImages(s.backend.State(), images)
	for _, im := range images {
		t.Events = append(t.Events, cluster.Event{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventImage,
			Subject: "image " + im.Ref, Text: fmt.Sprintf("%s, %.1f MB, %.19s", how, float64(im.Size)/1e6, im.Digest)})
	}
	if err := s.commit(r, t, "record image"); err != nil {
		return err
	}
	// Only now is it as safe as everything else that was acknowledged: this node may be the next to die.
	ctx, cancel := context.WithTimeout(r.Context(), copyTimeout)
	defer cancel()
	for _, im := range images {
		if err := s.backend.AwaitCopy(ctx, im); err != nil {
			return &statusError{http.StatusServiceUnavailable, fmt.Errorf("image %s is on node %s, but no other node has copied it within %s: %w",
				im.Ref, s.backend.Self(), copyTimeout, err)}
		}
	}
	return nil
}

// copyTimeout is how long another node may take to copy an image.
const copyTimeout = 2 * time.Minute

func (s *Server) blob(w http.ResponseWriter, r *http.Request) error {
	f, size, err := s.backend.Blob(r.PathValue("digest"))
	if err != nil {
		return notFound("blob %s: %w", r.PathValue("digest"), err)
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", fmt.Sprint(size))
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}
