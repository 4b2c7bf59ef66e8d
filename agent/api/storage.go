package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/disks"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/iscsi"
	"github.com/skein-os/skein/storage/reserve"
	"github.com/skein-os/skein/storage/speed"
)

// Disks is what the API needs of the disks of the node it runs on.
type Disks interface {
	Seen() ([]disks.Seen, error)
	Test(ctx context.Context, wwn string, o reserve.TestOptions, others ...reserve.Nexus) (reserve.Verdict, error)
	TestCommand(ctx context.Context, wwn, path string, c reserve.Command) (reserve.Outcome, error)
	Registrations(ctx context.Context, wwn string, near uint64) ([]disks.Registration, error)
	Speed(ctx context.Context, wwn string, during time.Duration) ([]speed.Result, error)
	Identify(wwn string) (filesystem.Content, error)
	Make(ctx context.Context, r cluster.VolumeRecord, key takeover.Key, overwrite filesystem.Kind) error
	Grow(ctx context.Context, r cluster.VolumeRecord) (int64, error)
}

// SANRequest makes or changes a target. The secrets go to the ledger's secrets and never come back.
type SANRequest struct {
	cluster.SAN
	Secret       string `json:"secret,omitempty"`
	TargetSecret string `json:"target_secret,omitempty"` // of TargetUser
}

// DiskTestRequest asks for a disk's self-test on the node of the request's path.
type DiskTestRequest struct {
	// Enrol records the verdict, and the disk as this cluster's, under the alias.
	Enrol bool   `json:"enrol,omitempty"`
	Alias string `json:"alias,omitempty"`
	// TakeKeysAway clears registrations that are on the disk, whosoever they are.
	TakeKeysAway bool `json:"take_keys_away,omitempty"`
}

// DiskTest is the outcome of a self-test.
type DiskTest struct {
	Disk    cluster.Disk `json:"disk"`
	Verdict string       `json:"verdict"`
	Content string       `json:"content,omitempty"` // what is on it, empty if that could not be read
	// Preempt is how long the disk takes to take a key away, ReadKeys to name them: medians.
	Preempt  time.Duration `json:"preempt_ns,omitempty"`
	ReadKeys time.Duration `json:"read_keys_ns,omitempty"`
}

// VolumeRequest makes a volume, on the node of the request's path.
type VolumeRequest struct {
	Name string `json:"name"`
	Disk string `json:"disk"` // WWN or alias
	FS   string `json:"fs,omitempty"`
	Size int64  `json:"size_bytes,omitempty"` // 0: the disk's
	// Overwrite is what is on the disk and may be destroyed, as 'skein disk show' names its kind.
	Overwrite string `json:"overwrite,omitempty"`
}

// VolumeStatus is a volume and who has it.
type VolumeStatus struct {
	cluster.VolumeRecord
	Alias string                `json:"disk_alias,omitempty"`
	User  string                `json:"user,omitempty"`  // the service
	Node  string                `json:"node,omitempty"`  // where its instance is
	State cluster.InstanceState `json:"state,omitempty"` // of that
	Why   string                `json:"message,omitempty"`
}

// makeTimeout bounds the making of a file system, which writes all tables of a large one.
const makeTimeout = 10 * time.Minute

func (s *Server) storageRoutes() {
	s.handle("GET /v1/sans", func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, list(s.backend.State().SANs))
		return nil
	})
	s.handle("PUT /v1/sans/{san}", s.setSAN)
	s.handle("DELETE /v1/sans/{san}", s.removeSAN)
	s.handle("GET /v1/nodes/{name}/san", s.onNode(s.nodeSAN))
	s.handle("POST /v1/nodes/{name}/san/discover", s.onNode(s.discoverSAN))
	s.handle("GET /v1/disks", func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, list(s.backend.State().Disks))
		return nil
	})
	s.handle("GET /v1/nodes/{name}/disks", s.onNode(s.seenDisks))
	s.handle("GET /v1/nodes/{name}/disks/{disk}/registrations", s.onNode(s.registrations))
	s.handle("POST /v1/nodes/{name}/disks/{disk}/speed", s.onNode(s.diskSpeed))
	s.handle("POST /v1/nodes/{name}/disks/{disk}/test", s.onNode(s.testDisk))
	s.handle("POST /v1/nodes/{name}/disks/{disk}/paths/{path}/test-command", s.onNode(s.testCommand))
	s.handle("GET /v1/volumes", s.volumes)
	s.handle("POST /v1/nodes/{name}/volumes", s.onNode(s.createVolume))
	s.handle("POST /v1/nodes/{name}/volumes/{volume}/grow", s.onNode(s.growVolume))
	s.handle("DELETE /v1/volumes/{volume}", s.removeVolume)
}

func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

// onNode has the node of the request's path answer it.
func (s *Server) onNode(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		n, err := s.node(r)
		if err != nil {
			return err
		}
		if r.Method != http.MethodGet {
			if err := s.onBehalf(r, "change storage"); err != nil {
				return err
			}
		}
		if n.Name != s.backend.Self() {
			return s.forward(w, r, n)
		}
		return h(w, r)
	}
}

func (s *Server) storageEvent(r *http.Request, subject, text string) cluster.Event {
	return cluster.Event{Time: time.Now(), Node: s.backend.Self(), Kind: cluster.EventStorage, Subject: subject, Text: text, Why: "asked by operator " + s.asker(r)}
}

func (s *Server) setSAN(w http.ResponseWriter, r *http.Request) error {
	var req SANRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("SAN: the request is not readable") // the decoder's error may quote the secret
	}
	san := req.SAN
	san.Name = r.PathValue("san")
	if err := san.Check(); err != nil {
		return badRequest("%w", err)
	}
	if err := cluster.CheckCHAPSecret(san.User, req.Secret); err != nil {
		return badRequest("SAN %s: %w", san.Name, err)
	}
	if err := cluster.CheckCHAPSecret(san.TargetUser, req.TargetSecret); err != nil {
		return badRequest("SAN %s: of the target: %w", san.Name, err)
	}
	if san.User != "" {
		if err := (iscsi.CHAP{User: san.User, Secret: req.Secret, TargetUser: san.TargetUser, TargetSecret: req.TargetSecret}).Check(); err != nil {
			return badRequest("SAN %s: %w", san.Name, err)
		}
	}
	st := s.backend.State()
	for i := range st.SANs {
		if o := &st.SANs[i]; o.IQN == san.IQN && o.Name != san.Name {
			return conflict("SAN %s: %s is that of %s already", san.Name, san.IQN, o.Name)
		}
	}
	var revision int64
	if old := st.SAN(san.Name); old != nil {
		revision = old.Revision
	}
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: san.Key(), Revision: revision}}, Puts: []cluster.Put{{Key: san.Key(), Value: san}},
		Events: []cluster.Event{s.storageEvent(r, san.Name, fmt.Sprintf("SAN %s was set: %s at %d portals", san.Name, san.IQN, len(san.Portals)))}}
	for _, s := range []struct{ user, name, value string }{
		{san.User, cluster.SANSecret(san.Name), req.Secret}, {san.TargetUser, cluster.SANTargetSecret(san.Name), req.TargetSecret},
	} {
		if s.user != "" {
			t.Puts = append(t.Puts, cluster.Put{Key: cluster.KeySecrets + s.name, Value: []byte(s.value)})
		} else {
			t.Deletes = append(t.Deletes, cluster.KeySecrets+s.name)
		}
	}
	if err := s.commit(r, t, "set SAN "+san.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, san)
	return nil
}

func (s *Server) removeSAN(w http.ResponseWriter, r *http.Request) error {
	st := s.backend.State()
	san := st.SAN(r.PathValue("san"))
	if san == nil {
		return notFound("there is no SAN %q; 'skein san ls' lists them", r.PathValue("san"))
	}
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: san.Key(), Revision: san.Revision}},
		Deletes: []string{san.Key(), cluster.KeySecrets + cluster.SANSecret(san.Name), cluster.KeySecrets + cluster.SANTargetSecret(san.Name)},
		Events:  []cluster.Event{s.storageEvent(r, san.Name, "SAN "+san.Name+" was removed")}}
	if err := s.commit(r, t, "remove SAN "+san.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, san)
	return nil
}

// NodeSAN is what a node has of the storage network.
type NodeSAN struct {
	Node      string         `json:"node"`
	Initiator string         `json:"initiator"` // its iSCSI name, for the array's list of who may log in
	Portals   []iscsi.Status `json:"portals"`   // of the ledger and of the kernel's command line
}

// SANDiscovery asks for the targets of a portal.
type SANDiscovery struct {
	Portal netip.AddrPort `json:"portal"`
}

// SANTarget is a target that a portal named, with a portal of it.
type SANTarget struct {
	IQN    string         `json:"iqn"`
	Portal netip.AddrPort `json:"portal"`
}

func (s *Server) nodeSAN(w http.ResponseWriter, _ *http.Request) error {
	n := s.backend.SAN()
	n.Portals = list(n.Portals)
	writeJSON(w, http.StatusOK, n)
	return nil
}

func (s *Server) discoverSAN(w http.ResponseWriter, r *http.Request) error {
	var req SANDiscovery
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&req); err != nil {
		return badRequest("discovery: %w", err)
	}
	if !req.Portal.IsValid() || req.Portal.Port() == 0 {
		return badRequest("discovery: %s is no address of a portal", req.Portal)
	}
	found, err := s.backend.DiscoverSAN(r.Context(), req.Portal)
	if err != nil {
		return conflict("%w", err)
	}
	out := []SANTarget{}
	for _, p := range found {
		out = append(out, SANTarget{p.Target, p.Addr})
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) seenDisks(w http.ResponseWriter, _ *http.Request) error {
	seen, err := s.backend.Disks().Seen()
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, list(seen))
	return nil
}

// DiskRegistration is a key on a disk and whose it is.
type DiskRegistration struct {
	disks.Registration
	Owner string `json:"owner,omitempty"` // the node; empty: a stranger
}

// registrationsTime bounds the reading of registrations: a disk may not answer.
const registrationsTime = 5 * time.Second

func (s *Server) registrations(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), registrationsTime)
	defer cancel()
	st := s.backend.State()
	keys, err := s.backend.Disks().Registrations(ctx, r.PathValue("disk"), uint64(st.Revision))
	if err != nil {
		return err
	}
	out := []DiskRegistration{}
	for _, k := range keys {
		d := DiskRegistration{Registration: k}
		for i := range st.Nodes {
			if n := &st.Nodes[i]; k.Node != 0 && n.Number == k.Node {
				d.Owner = n.Name
			}
		}
		out = append(out, d)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) testDisk(w http.ResponseWriter, r *http.Request) error {
	var req DiskTestRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("test of a disk: %w", err)
	}
	st := s.backend.State()
	wwn := r.PathValue("disk")
	old := st.Disk(wwn)
	if old != nil {
		wwn = old.WWN
	}
	if o := st.SharedOn(wwn); o != nil {
		return conflict("disk %s has the shared file system %s: a test would cut nodes off that write to it", wwn, o.Name)
	}
	if user := st.UserOf(wwn); user != "" {
		return conflict("disk %s has %s's volume: a test would take it away; stop that service first", wwn, user)
	}
	seen, err := s.backend.Disks().Seen()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(seen, func(d disks.Seen) bool { return d.WWN == wwn })
	if i < 0 {
		return notFound("node %s does not see a disk %q; 'skein disk ls' lists those that nodes see", s.backend.Self(), wwn)
	}
	d := cluster.Disk{WWN: wwn, Alias: req.Alias, Size: seen[i].Size, BlockSize: seen[i].BlockSize, Model: seen[i].Model,
		TestedBy: s.backend.Self(), Tested: time.Now().UTC(), Cluster: st.Meta.ID}
	var revision int64
	if old != nil {
		d.Alias, revision = cmp.Or(d.Alias, old.Alias), old.Revision
	}
	if err := d.Check(); err != nil {
		return badRequest("%w", err)
	}
	if o := st.Disk(d.Alias); o != nil && o.WWN != d.WWN {
		return conflict("disk %s: alias %s is disk %s's", d.WWN, d.Alias, o.WWN)
	}
	v, err := s.backend.Disks().Test(r.Context(), wwn, reserve.TestOptions{TakeAway: req.TakeKeysAway}, s.otherPaths(r, wwn)...)
	switch {
	case errors.Is(err, reserve.ErrForeign) || errors.Is(err, reserve.ErrInUse):
		return conflict("disk %s: %w; nothing was touched", d.Name(), err)
	case err != nil:
		return fmt.Errorf("disk %s could not be tested: %w", d.Name(), err)
	}
	d.FastFenced, d.Because, d.Paths = v.FastFenced, v.Because, v.Paths
	out := DiskTest{Disk: d, Verdict: fmt.Sprint(v), Preempt: v.Preempt, ReadKeys: v.ReadKeys}
	if c, err := s.backend.Disks().Identify(wwn); err == nil {
		out.Content = c.String()
	}
	if req.Enrol {
		t := cluster.Txn{Conditions: []cluster.Condition{{Key: d.Key(), Revision: revision}}, Puts: []cluster.Put{{Key: d.Key(), Value: d}},
			Events: []cluster.Event{s.storageEvent(r, d.Name(), fmt.Sprintf("disk %s was enrolled: %s", d.Name(), v))}}
		if err := s.commit(r, t, "enrol disk "+d.Name()); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

func (s *Server) volumes(w http.ResponseWriter, _ *http.Request) error {
	st := s.backend.State()
	out := []VolumeStatus{}
	for _, v := range st.Volumes {
		vs := VolumeStatus{VolumeRecord: v, User: st.UserOf(v.Disk)}
		if d := st.Disk(v.Disk); d != nil {
			vs.Alias = d.Alias
		}
		for i := range st.Instances {
			in := &st.Instances[i]
			if !slices.ContainsFunc(in.Spec.Volumes, func(x cluster.Volume) bool { return x.Disk == v.Disk }) {
				continue
			}
			vs.Node = in.Node
			if x := st.Status(in.ID); x != nil {
				vs.State, vs.Why = x.State, x.Message
			}
		}
		out = append(out, vs)
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// newUUID is a random one, RFC 9562 version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (s *Server) createVolume(w http.ResponseWriter, r *http.Request) error {
	var req VolumeRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&req); err != nil {
		return badRequest("volume: %w", err)
	}
	st := s.backend.State()
	v := cluster.VolumeRecord{Name: req.Name, Disk: req.Disk, FS: cmp.Or(req.FS, cluster.Ext4), UUID: newUUID(), CreatedBy: s.asker(r), Created: time.Now().UTC()}
	d := st.Disk(req.Disk)
	if d != nil {
		v.Disk, v.Size = d.WWN, d.Size
	}
	if err := st.CheckNewVolume(&v, req.Size); err != nil {
		return conflict("%w", err)
	}
	self := st.Node(s.backend.Self())
	if self == nil {
		return conflict("node %s is not in the ledger", s.backend.Self())
	}
	c, err := s.backend.Disks().Identify(d.WWN)
	if err != nil {
		return fmt.Errorf("volume %s: what is on disk %s could not be read: %w", v.Name, d.Name(), err)
	}
	if c.Kind != filesystem.Empty && string(c.Kind) != req.Overwrite {
		return conflict("disk %s holds %s: nothing was touched; if that may be destroyed, say --overwrite %q", d.Name(), c, c.Kind)
	}
	// The disk's record is written too: of two that make a volume on it at once, one is refused.
	t := cluster.Txn{
		Conditions: []cluster.Condition{{Key: v.Key()}, {Key: d.Key(), Revision: d.Revision}},
		Puts:       []cluster.Put{{Key: v.Key(), Value: v}, {Key: d.Key(), Value: *d}},
		Events:     []cluster.Event{s.storageEvent(r, v.Name, fmt.Sprintf("volume %s is being made on disk %s, %s", v.Name, d.Name(), v.FS))},
	}
	revision, ok, err := s.backend.CommitAt(r.Context(), t)
	switch {
	case err != nil:
		return &statusError{http.StatusServiceUnavailable, fmt.Errorf("volume %s: the ledger did not take it: %w", v.Name, err)}
	case !ok:
		return conflict("volume %s: somebody else changed the same thing at the same moment; nothing was done, try again", v.Name)
	}
	// Not with the caller: a file system that is half made helps nobody.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), makeTimeout)
	defer cancel()
	if err := s.backend.Disks().Make(ctx, v, takeover.Key{Node: self.Number, Epoch: uint64(revision)}, filesystem.Kind(req.Overwrite)); err != nil {
		_, uerr := s.backend.Commit(ctx, cluster.Txn{Conditions: []cluster.Condition{{Key: v.Key(), Revision: revision}}, Deletes: []string{v.Key()},
			Events: []cluster.Event{s.storageEvent(r, v.Name, fmt.Sprintf("volume %s was not made: %v", v.Name, err))}})
		return errors.Join(fmt.Errorf("volume %s on disk %s was not made: %w", v.Name, d.Name(), err), uerr)
	}
	v.Ready = true
	t = cluster.Txn{Conditions: []cluster.Condition{{Key: v.Key(), Revision: revision}}, Puts: []cluster.Put{{Key: v.Key(), Value: v}},
		Events: []cluster.Event{s.storageEvent(r, v.Name, fmt.Sprintf("volume %s is ready: %s of %d bytes on disk %s", v.Name, v.FS, v.Size, d.Name()))}}
	if err := s.commit(r.WithContext(ctx), t, "make volume "+v.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

func (s *Server) volume(r *http.Request) (*cluster.VolumeRecord, error) {
	name := r.PathValue("volume")
	if v := s.backend.State().Volume(name); v != nil {
		return v, nil
	}
	return nil, notFound("there is no volume %q; 'skein volume ls' lists them", name)
}

func (s *Server) growVolume(w http.ResponseWriter, r *http.Request) error {
	v, err := s.volume(r)
	if err != nil {
		return err
	}
	size, err := s.backend.Disks().Grow(r.Context(), *v)
	if errors.Is(err, disks.ErrNotMounted) {
		return conflict("%w: it grows where its service runs; start the service", err)
	}
	if err != nil {
		return err
	}
	next := *v
	next.Size = size
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: v.Key(), Revision: v.Revision}}, Puts: []cluster.Put{{Key: v.Key(), Value: next}},
		Events: []cluster.Event{s.storageEvent(r, v.Name, fmt.Sprintf("volume %s has grown from %d to %d bytes", v.Name, v.Size, size))}}
	if d := s.backend.State().Disk(v.Disk); d != nil && size > d.Size {
		grown := *d
		grown.Size = size
		t.Conditions = append(t.Conditions, cluster.Condition{Key: d.Key(), Revision: d.Revision})
		t.Puts = append(t.Puts, cluster.Put{Key: d.Key(), Value: grown})
	}
	if err := s.commit(r, t, "grow volume "+v.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, next)
	return nil
}

func (s *Server) removeVolume(w http.ResponseWriter, r *http.Request) error {
	v, err := s.volume(r)
	if err != nil {
		return err
	}
	if user := s.backend.State().UserOf(v.Disk); user != "" {
		return conflict("volume %s belongs to %s: remove that service first", v.Name, user)
	}
	t := cluster.Txn{Conditions: []cluster.Condition{{Key: v.Key(), Revision: v.Revision}}, Deletes: []string{v.Key()},
		Events: []cluster.Event{s.storageEvent(r, v.Name, fmt.Sprintf("volume %s was removed; what it held is still on disk %s", v.Name, v.Disk))}}
	if err := s.commit(r, t, "remove volume "+v.Name); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// SANs lists the targets.
func (c *Client) SANs(ctx context.Context) (out []cluster.SAN, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/sans", nil, nil, &out)
}

// SetSAN makes or changes a target.
func (c *Client) SetSAN(ctx context.Context, req SANRequest) (out cluster.SAN, err error) {
	return out, c.get(ctx, http.MethodPut, "/v1/sans/"+url.PathEscape(req.Name), nil, req, &out)
}

// RemoveSAN forgets a target.
func (c *Client) RemoveSAN(ctx context.Context, name string) error {
	return c.get(ctx, http.MethodDelete, "/v1/sans/"+url.PathEscape(name), nil, nil, nil)
}

// NodeSAN tells what a node has of the storage network.
func (c *Client) NodeSAN(ctx context.Context, node string) (out NodeSAN, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(node)+"/san", nil, nil, &out)
}

// DiscoverSAN has a node ask a portal for its targets.
func (c *Client) DiscoverSAN(ctx context.Context, node string, portal netip.AddrPort) (out []SANTarget, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/san/discover", nil, SANDiscovery{portal}, &out)
}

// Disks lists the enrolled disks.
func (c *Client) Disks(ctx context.Context) (out []cluster.Disk, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/disks", nil, nil, &out)
}

// SeenDisks lists what a node sees.
func (c *Client) SeenDisks(ctx context.Context, node string) (out []disks.Seen, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(node)+"/disks", nil, nil, &out)
}

// DiskRegistrations has a node read who is registered on a disk.
func (c *Client) DiskRegistrations(ctx context.Context, node, wwn string) (out []DiskRegistration, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/nodes/"+url.PathEscape(node)+"/disks/"+url.PathEscape(wwn)+"/registrations", nil, nil, &out)
}

// TestDisk has a node test a disk.
func (c *Client) TestDisk(ctx context.Context, node, disk string, req DiskTestRequest) (out DiskTest, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/disks/"+url.PathEscape(disk)+"/test", nil, req, &out)
}

// Volumes lists the volumes.
func (c *Client) Volumes(ctx context.Context) (out []VolumeStatus, err error) {
	return out, c.get(ctx, http.MethodGet, "/v1/volumes", nil, nil, &out)
}

// CreateVolume has a node make a volume.
func (c *Client) CreateVolume(ctx context.Context, node string, req VolumeRequest) (out cluster.VolumeRecord, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/volumes", nil, req, &out)
}

// GrowVolume has the node that has it mounted make a volume as large as its disk.
func (c *Client) GrowVolume(ctx context.Context, node, name string) (out cluster.VolumeRecord, err error) {
	return out, c.get(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/volumes/"+url.PathEscape(name)+"/grow", nil, struct{}{}, &out)
}

// RemoveVolume forgets a volume; its disk keeps what is on it.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	return c.get(ctx, http.MethodDelete, "/v1/volumes/"+url.PathEscape(name), nil, nil, nil)
}
