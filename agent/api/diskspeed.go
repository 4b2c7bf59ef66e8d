package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/skein-os/skein/storage/speed"
)

// DiskSpeedRequest asks a node how fast it reads a disk.
type DiskSpeedRequest struct {
	For time.Duration `json:"for_ns"`
}

func (s *Server) diskSpeed(w http.ResponseWriter, r *http.Request) error {
	var req DiskSpeedRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("speed of a disk: %w", err)
	}
	if req.For <= 0 || req.For > speed.MaxTime {
		return badRequest("speed of a disk: measure for up to %s, not %s", speed.MaxTime, req.For)
	}
	wwn := r.PathValue("disk")
	if d := s.backend.State().Disk(wwn); d != nil {
		wwn = d.WWN
	}
	out, err := s.backend.Disks().Speed(r.Context(), wwn, req.For)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// DiskSpeed has a node measure how fast it reads a disk: by its map, and by each path.
func (c *Client) DiskSpeed(ctx context.Context, node, disk string, during time.Duration) (out []speed.Result, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/disks/"+url.PathEscape(disk)+"/speed", nil, DiskSpeedRequest{during}, &out)
}
