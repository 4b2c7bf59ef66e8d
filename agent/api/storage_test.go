package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/disks"
	"github.com/skein-os/skein/agent/takeover"
	"github.com/skein-os/skein/storage/filesystem"
	"github.com/skein-os/skein/storage/iscsi"
	"github.com/skein-os/skein/storage/reserve"
	"github.com/skein-os/skein/storage/speed"
)

// oneDisk is a node with one disk.
type oneDisk struct {
	content filesystem.Kind
	verdict reserve.Verdict
	err     error
	made    []takeover.Key
	tested  int
	others  []reserve.Nexus
}

func (d *oneDisk) Seen() ([]disks.Seen, error) {
	return []disks.Seen{{WWN: "naa.1", Size: 1 << 30, Paths: []disks.Path{{Name: "sdb"}}}}, nil
}
func (d *oneDisk) Test(_ context.Context, _ string, _ reserve.TestOptions, others ...reserve.Nexus) (reserve.Verdict, error) {
	d.tested++
	d.others = others
	return d.verdict, d.err
}
func (d *oneDisk) TestCommand(_ context.Context, wwn, path string, c reserve.Command) (reserve.Outcome, error) {
	if c.Op == reserve.Reserve {
		return reserve.NewOutcome(reserve.Answer{}, &reserve.Error{Device: path, Op: c.Op, Kind: reserve.ErrConflict})
	}
	return reserve.NewOutcome(reserve.Answer{Keys: []reserve.Key{c.New}}, nil)
}
func (d *oneDisk) Registrations(context.Context, string, uint64) ([]disks.Registration, error) {
	return []disks.Registration{{Key: 5, Node: 1, Epoch: 9, Holder: true, Paths: 2}, {Key: 6, Paths: 1}}, d.err
}
func (d *oneDisk) Speed(_ context.Context, wwn string, during time.Duration) ([]speed.Result, error) {
	return []speed.Result{{Device: "/dev/dm-0", Reads: int(during / time.Millisecond)}}, d.err
}
func (d *oneDisk) Identify(string) (filesystem.Content, error) {
	return filesystem.Content{Kind: d.content}, nil
}
func (d *oneDisk) Make(_ context.Context, _ cluster.VolumeRecord, k takeover.Key, _ filesystem.Kind) error {
	d.made = append(d.made, k)
	return d.err
}
func (d *oneDisk) Grow(context.Context, cluster.VolumeRecord) (int64, error) {
	return 0, disks.ErrNotMounted
}

func storageBench(t *testing.T, role string) (*memory, *oneDisk, *Client) {
	t.Helper()
	m, d := newMemory("n1"), &oneDisk{content: filesystem.Empty, verdict: reserve.Verdict{FastFenced: true}}
	m.disks = d
	other := newMemory("n2")
	other.disks = &oneDisk{}
	m.peer = NewServer(other, http.NotFoundHandler(), passing, slog.New(slog.DiscardHandler))
	m.state.Meta.ID = "me"
	m.state.Disks = []cluster.Disk{{WWN: "naa.1", Alias: "db", Size: 1 << 30, FastFenced: true, Cluster: "me", Revision: 7}}
	c, _ := serve(t, m, role)
	return m, d, c
}

func TestCreateVolume(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*memory, *oneDisk)
		req     VolumeRequest
		want    string
		commits int
	}{
		{"by alias", nil, VolumeRequest{Name: "data", Disk: "db"}, "", 2},
		{"foreign data", func(_ *memory, d *oneDisk) { d.content = filesystem.LVM }, VolumeRequest{Name: "data", Disk: "db"}, "holds LVM physical volume: nothing was touched", 0},
		{"overwritten", func(_ *memory, d *oneDisk) { d.content = filesystem.Ext4 }, VolumeRequest{Name: "data", Disk: "db", Overwrite: "ext4"}, "", 2},
		{"overwrite of something else", func(_ *memory, d *oneDisk) { d.content = filesystem.LUKS }, VolumeRequest{Name: "data", Disk: "db", Overwrite: "ext4"}, "holds LUKS", 0},
		{"slice", nil, VolumeRequest{Name: "data", Disk: "db", Size: 1 << 29}, "one reservation", 0},
		{"not enrolled", nil, VolumeRequest{Name: "data", Disk: "naa.9"}, "skein disk enrol", 0},
		{"mkfs fails", func(_ *memory, d *oneDisk) { d.err = errors.New("disk full of errors") }, VolumeRequest{Name: "data", Disk: "db"}, "full of errors", 2},
	} {
		m, d, client := storageBench(t, RoleOperator)
		if c.change != nil {
			c.change(m, d)
		}
		v, err := client.CreateVolume(t.Context(), "n1", c.req)
		if c.want == "" && (err != nil || !v.Ready || v.Disk != "naa.1" || len(v.UUID) != 36) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %+v, %v, want %q", c.name, v, err, c.want)
		}
		if len(m.committed) != c.commits {
			t.Errorf("%s: got %d commits, want %d", c.name, len(m.committed), c.commits)
		}
		if c.commits > 0 && (len(d.made) != 1 || d.made[0].Epoch != 101 || m.committed[0].Events[0].Kind != cluster.EventStorage) {
			t.Errorf("%s: made with keys %v, audit %+v, want the epoch of the commit", c.name, d.made, m.committed[0].Events)
		}
		if c.name == "mkfs fails" && len(m.committed[1].Deletes) != 1 {
			t.Errorf("%s: the record stays: %+v", c.name, m.committed[1])
		}
	}
}

func TestDiskSpeed(t *testing.T) {
	_, _, c := storageBench(t, RoleOperator)
	if got, err := c.DiskSpeed(t.Context(), "n1", "naa.1", 7*time.Millisecond); err != nil || len(got) != 1 || got[0].Reads != 7 {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := c.DiskSpeed(t.Context(), "n1", "naa.1", time.Hour); err == nil || !strings.Contains(err.Error(), "up to 1m0s") {
		t.Errorf("an hour: got %v", err)
	}
}

func TestRegistrations(t *testing.T) {
	m, _, c := storageBench(t, RoleOperator)
	got, err := c.DiskRegistrations(t.Context(), "n1", "naa.1")
	if err != nil || len(got) != 2 || got[0].Owner != m.state.Nodes[0].Name || !got[0].Holder || got[1].Owner != "" {
		t.Errorf("got %+v, %v, want the first to be n1's and the other a stranger's", got, err)
	}
}

func TestEnrol(t *testing.T) {
	m, d, c := storageBench(t, RoleOperator)
	d.verdict = reserve.Verdict{Because: "it forgets"}
	res, err := c.TestDisk(t.Context(), "n1", "naa.1", DiskTestRequest{})
	if err != nil || res.Disk.FastFenced || len(m.committed) != 0 {
		t.Fatalf("a test: got %+v, %v, %d commits, want the verdict and none", res, err, len(m.committed))
	}
	// The other node's path plays, too.
	if len(d.others) != 1 || d.others[0].Name() != "n2:/dev/sdb" {
		t.Fatalf("other paths: got %v", d.others)
	}
	if a, err := d.others[0].Exec(t.Context(), reserve.Command{Op: reserve.RegisterIgnore, New: 1 << 63}); err != nil || !slices.Equal(a.Keys, []reserve.Key{1 << 63}) {
		t.Errorf("a command through it: got %v, %v", a, err)
	}
	if _, err := d.others[0].Exec(t.Context(), reserve.Command{Op: reserve.Reserve}); !errors.Is(err, reserve.ErrConflict) {
		t.Errorf("a refused command: got %v", err)
	}
	if _, err := c.TestDisk(t.Context(), "n1", "db", DiskTestRequest{Enrol: true}); err != nil || len(m.committed) != 1 {
		t.Fatalf("enrol: got %v, %d commits", err, len(m.committed))
	}
	got := m.committed[0].Puts[0].Value.(cluster.Disk)
	if got.Alias != "db" || got.FastFenced || got.Because != "it forgets" || got.Cluster != "me" {
		t.Errorf("got %+v", got)
	}
	d.err = reserve.ErrForeign
	if _, err := c.TestDisk(t.Context(), "n1", "db", DiskTestRequest{Enrol: true}); err == nil || !strings.Contains(err.Error(), "nothing was touched") || len(m.committed) != 1 {
		t.Errorf("foreign key: got %v", err)
	}
	before := d.tested
	m.state.Services = []cluster.Service{{Stack: "shop", Name: "db", Volumes: []cluster.Volume{{Name: "data", Disk: "naa.1"}}}}
	if _, err := c.TestDisk(t.Context(), "n1", "db", DiskTestRequest{}); err == nil || !strings.Contains(err.Error(), "shop/db") || d.tested != before {
		t.Errorf("in use: got %v, %d tests", err, d.tested-before)
	}
	_, _, node := storageBench(t, RoleNode)
	if _, err := node.TestDisk(t.Context(), "n1", "db", DiskTestRequest{}); err == nil {
		t.Error("a node may test a disk for itself")
	}
}

func TestSAN(t *testing.T) {
	m, _, c := storageBench(t, RoleAdmin)
	req := SANRequest{SAN: cluster.SAN{Name: "main", IQN: "iqn.2026-01.dev.skein:lab", User: "u",
		Portals: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:3260")}}, Secret: "tell-nobody-of-it"}
	if _, err := c.SetSAN(t.Context(), req); err != nil || len(m.committed) != 1 {
		t.Fatalf("got %v", err)
	}
	if p := m.committed[0].Puts[1]; p.Key != cluster.KeySecrets+"san/main" || string(p.Value.([]byte)) != req.Secret {
		t.Errorf("the secret is at %s", p.Key)
	}
	if d := m.committed[0].Deletes; len(d) != 1 || d[0] != cluster.KeySecrets+"san/main/target" {
		t.Errorf("deleted: %v, want the target's secret, which it has no more", d)
	}
	req.TargetUser, req.TargetSecret = "array", "nor-of-this-one"
	if _, err := c.SetSAN(t.Context(), req); err != nil || len(m.committed) != 2 || string(m.committed[1].Puts[2].Value.([]byte)) != req.TargetSecret {
		t.Errorf("both ways: got %v", err)
	}
	for _, secret := range []string{"", "nor-of-th", req.Secret} {
		req.TargetSecret = secret
		if _, err := c.SetSAN(t.Context(), req); err == nil || secret != "" && strings.Contains(err.Error(), secret) {
			t.Errorf("target's secret %q: got %v, which must be an error that does not quote it", secret, err)
		}
	}
	req.TargetUser, req.TargetSecret = "", ""
	req.Secret = "tell-nob"
	if _, err := c.SetSAN(t.Context(), req); err == nil || strings.Contains(err.Error(), req.Secret) {
		t.Errorf("a short secret: got %v, which must be an error that does not quote it", err)
	}
}

func TestNodeSAN(t *testing.T) {
	m, _, c := storageBench(t, RoleOperator)
	portal := netip.MustParseAddrPort("192.0.2.1:3260")
	m.san = NodeSAN{Node: "n1", Initiator: "iqn.2026-01.dev.skein:c:n1", Portals: []iscsi.Status{{Target: "iqn.2026-01.dev.skein:lab", Portal: portal, State: iscsi.Ready, Session: 3}}}
	if got, err := c.NodeSAN(t.Context(), "n1"); err != nil || got.Initiator != m.san.Initiator || len(got.Portals) != 1 || got.Portals[0] != m.san.Portals[0] {
		t.Errorf("got %+v, %v", got, err)
	}
	m.targets = map[netip.AddrPort][]iscsi.Portal{portal: {{Target: "iqn.2026-01.dev.skein:lab", Addr: portal}}}
	if got, err := c.DiscoverSAN(t.Context(), "n1", portal); err != nil || len(got) != 1 || got[0] != (SANTarget{"iqn.2026-01.dev.skein:lab", portal}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, p := range []string{"192.0.2.9:3260", "192.0.2.9:0"} {
		if _, err := c.DiscoverSAN(t.Context(), "n1", netip.MustParseAddrPort(p)); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: got %v", p, err)
		}
	}
	_, _, node := storageBench(t, RoleNode)
	if _, err := node.DiscoverSAN(t.Context(), "n1", portal); err == nil {
		t.Error("a node may have another one connect to where it likes")
	}
}

func TestVolumeOfADeploy(t *testing.T) {
	m, _, c := storageBench(t, RoleOperator)
	m.state.Images = []cluster.Image{{Ref: image, Digest: "sha256:0123456789abcdef"}}
	svc := cluster.Service{Stack: "shop", Name: "db", Image: image, Mode: cluster.ModeReplicated, Replicas: 1, Safety: cluster.SafetyStorage,
		Volumes: []cluster.Volume{{Name: "data", Target: "/d", Asked: &cluster.VolumeAsked{At: "c.yaml:4:9"}}}}
	_, err := c.Deploy(t.Context(), "shop", []cluster.Service{svc})
	if err == nil || !strings.Contains(err.Error(), "c.yaml:4:9") || len(m.committed) != 0 {
		t.Fatalf("got %v, want a refusal with its place", err)
	}
	m.state.Volumes = []cluster.VolumeRecord{{Name: "data", Disk: "naa.1", FS: cluster.Ext4, UUID: "u", Size: 1 << 30, Ready: true, Revision: 9}}
	if _, err := c.Deploy(t.Context(), "shop", []cluster.Service{svc}); err != nil {
		t.Fatal(err)
	}
	held := false
	for _, cond := range m.committed[0].Conditions {
		held = held || cond == cluster.Condition{Key: cluster.KeyVolumes + "data", Revision: 9}
	}
	if got := m.committed[0].Puts[0].Value.(cluster.Service).Volumes[0]; got.Disk != "naa.1" || got.Asked != nil || !held {
		t.Errorf("got %+v, conditions %+v, want the disk and a hold on the volume", got, m.committed[0].Conditions)
	}
	if err := c.RemoveVolume(t.Context(), "data"); err != nil {
		t.Errorf("a volume that nobody has: got %v", err)
	}
	m.state.Services = []cluster.Service{{Stack: "shop", Name: "db", Volumes: []cluster.Volume{{Name: "data", Disk: "naa.1"}}}}
	if err := c.RemoveVolume(t.Context(), "data"); err == nil || !strings.Contains(err.Error(), "shop/db") {
		t.Errorf("a volume in use: got %v", err)
	}
	if _, err := c.GrowVolume(t.Context(), "n1", "data"); err == nil || !strings.Contains(err.Error(), "start the service") {
		t.Errorf("not mounted: got %v", err)
	}
}
