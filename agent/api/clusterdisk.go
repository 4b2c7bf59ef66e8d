package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/clusterdisk"
)

// ClusterDiskRequest names the disk on which the ledger is to have a copy.
type ClusterDiskRequest struct {
	WWN string `json:"wwn"`
}

// setClusterDisk stores the choice; the voters follow it by themselves.
func (s *Server) setClusterDisk(w http.ResponseWriter, r *http.Request) error {
	var req ClusterDiskRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("cluster disk: %w", err)
	}
	if req.WWN == "" {
		return badRequest("cluster disk: name the disk by its WWN")
	}
	st := s.backend.State()
	if st.LedgerDisk != nil {
		if st.LedgerDisk.WWN == req.WWN {
			writeJSON(w, http.StatusOK, st.LedgerDisk)
			return nil
		}
		return conflict("the cluster has a cluster disk, %s: if there were another one, nobody could tell which is newer", st.LedgerDisk.WWN)
	}
	d := cluster.ClusterDisk{WWN: req.WWN}
	for i := range st.Nodes {
		if n := &st.Nodes[i]; n.MemberID != 0 && n.State != cluster.NodeLost {
			d.Slots = append(d.Slots, n.Name) // at once, so that the first commits do not wait for who has none
		}
	}
	if len(d.Slots) > clusterdisk.MaxSlots {
		return conflict("there are %d voters, and a cluster disk has %d slots", len(d.Slots), clusterdisk.MaxSlots)
	}
	for len(d.Slots) < clusterdisk.DefaultSlots {
		d.Slots = append(d.Slots, "")
	}
	_, who := s.role(r)
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: cluster.KeyDisk}},
		Puts:       []cluster.Put{{Key: cluster.KeyDisk, Value: d}},
		Events: []cluster.Event{{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventCluster, Subject: st.Meta.Name,
			Text: "the ledger is to be kept on the cluster disk " + d.WWN, Why: "asked by operator " + who}},
	}
	if err := s.commit(r, t, "use disk "+d.WWN+" as cluster disk"); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

func (s *Server) showClusterDisk(w http.ResponseWriter, _ *http.Request) error {
	d := s.backend.State().LedgerDisk
	if d == nil {
		return notFound("there is no cluster disk; 'skein cluster disk use WWN' makes a LUN it")
	}
	writeJSON(w, http.StatusOK, d)
	return nil
}

// SetClusterDisk makes a LUN the cluster disk.
func (c *Client) SetClusterDisk(ctx context.Context, wwn string) (cluster.ClusterDisk, error) {
	var out cluster.ClusterDisk
	return out, c.get(ctx, http.MethodPut, "/v1/clusterdisk", nil, ClusterDiskRequest{wwn}, &out)
}

// ClusterDisk is the cluster disk.
func (c *Client) ClusterDisk(ctx context.Context) (cluster.ClusterDisk, error) {
	var out cluster.ClusterDisk
	return out, c.get(ctx, http.MethodGet, "/v1/clusterdisk", nil, nil, &out)
}
