package cluster

import (
	"cmp"
	"fmt"
	"time"
)

// Keys of the ledger. One record a key, JSON.
const (
	KeyRoot      = "/skein/"
	KeyNodes     = KeyRoot + "nodes/"      // nodes/<name> -> Node
	KeyServices  = KeyRoot + "services/"   // services/<stack>/<service> -> Service
	KeyInstances = KeyRoot + "instances/"  // instances/<node>/<id> -> Instance
	KeySlots     = KeyRoot + "slots/"      // slots/<stack>/<service>/<slot> -> id of the claim that holds it
	KeyStatus    = KeyRoot + "status/"     // status/<node>/<id> -> Status
	KeyImages    = KeyRoot + "images/"     // images/<reference> -> Image
	KeyBMCs      = KeyRoot + "bmcs/"       // bmcs/<node> -> BMC; its password is secret/bmc/<node>
	KeyFences    = KeyRoot + "fences/"     // fences/<node> -> Fence, the newest
	KeyFenceRate = KeyRoot + "fencerate"   // FenceRate; its name begins no other one
	KeyWatchdogs = KeyRoot + "watchdogs/"  // watchdogs/<node> -> WatchdogPolicy
	KeySANs      = KeyRoot + "sans/"       // sans/<name> -> SAN; its CHAP secret is secret/san/<name>
	KeyDisks     = KeyRoot + "disks/"      // disks/<WWN> -> Disk, enrolled
	KeyVolumes   = KeyRoot + "volumes/"    // volumes/<name> -> VolumeRecord
	KeyKept      = KeyRoot + "kept/"       // kept/<digest> -> KeptBlob, on the cluster disk
	KeyUpdates   = KeyRoot + "updates/"    // updates/<stack>/<service> -> Update, the newest
	KeyShared    = KeyRoot + "shared/"     // shared/<name> -> SharedRecord
	KeyReports   = KeyRoot + "reports/"    // reports/<shared file system>/<node> -> SharedReport, the newest
	KeyEvents    = KeyRoot + "events/"     // events/<20-digit sequence> -> Event, the last 1000
	KeyMeta      = KeyRoot + "meta"        // Meta
	KeyDisk      = KeyRoot + "clusterdisk" // ClusterDisk, if there is one; its name begins no other one
	KeyNetboot   = KeyRoot + "netboot"     // NetbootRecord, if members boot machines; its name begins no other one
	KeySecrets   = KeyRoot + "secret/"     // CA key, join token, heartbeat key: never sent by the API
)

// SlotKey is the ledger's key that the holder of the slot owns.
func SlotKey(stack, service string, slot int) string {
	return fmt.Sprintf("%s%s/%s/%d", KeySlots, stack, service, slot)
}

// Meta is what is true of the cluster as a whole.
type Meta struct {
	Name    string  `json:"name"`
	ID      string  `json:"id"` // random 128 bits, hex: tells two clusters of one name apart
	Network Network `json:"network"`
	// Incarnation rises with every restoration of a ledger that had lost its majority; RestoredFrom is the
	// revision that the last one started from. What anybody saw at a later one of the incarnation before is
	// void.
	Incarnation  uint64    `json:"incarnation"`
	RestoredFrom int64     `json:"restored_from,omitempty"`
	Created      time.Time `json:"created"`
}

// ClusterDisk is the LUN on which the ledger has a copy that outlasts a loss of power of all nodes.
type ClusterDisk struct {
	WWN   string   `json:"wwn"`
	Slots []string `json:"slots"` // which node keeps its copy there, by slot; "" for one that is free

	Revision int64 `json:"-"`
}

// Image is an image that the cluster knows. Its blobs are on the nodes, named by digest.
type Image struct {
	Ref    string    `json:"ref"`    // demo/web:1
	Digest string    `json:"digest"` // sha256:... of the manifest
	Size   int64     `json:"size_bytes"`
	Blobs  []string  `json:"blobs"`  // digests of manifest, config and layers
	Source string    `json:"source"` // "archive", "push" or the registry it came from
	Loaded time.Time `json:"loaded"`
	// Index is the digest of what the name means to a registry's clients, if that is an index of which Digest is the
	// part for these machines. Its other parts are in Blobs too.
	Index string `json:"index,omitempty"`
	// Artifact: nothing of it can be run here. It is kept for the registry's clients, and never unpacked.
	Artifact bool `json:"artifact,omitempty"`
	// Subject is the digest of the manifest that an artifact is about: a signature stays as long as what it signs.
	Subject string `json:"subject,omitempty"`
	// Replaced: it had a name that means another image now.
	Replaced bool `json:"replaced,omitempty"`
	// Used is when a service was last deployed with it; zero: never.
	Used time.Time `json:"used,omitzero"`

	Revision int64 `json:"-"`
}

// Top is the digest of what the name means to a registry's clients.
func (i *Image) Top() string { return cmp.Or(i.Index, i.Digest) }

// Key is the ledger's key of the image.
func (i *Image) Key() string { return KeyImages + i.Ref }

// Event is one thing that happened, written so that a tired administrator understands it.
type Event struct {
	Seq     uint64    `json:"seq"`  // ledger revision: total order
	Time    time.Time `json:"time"` // wall clock of the node that wrote it, for people only
	Node    string    `json:"node"` // who wrote it
	Kind    EventKind `json:"kind"`
	Subject string    `json:"subject"` // n2, demo/web, demo/web.1, image demo/web:1
	Text    string    `json:"text"`    // what happened, in a sentence
	Why     string    `json:"why,omitempty"`
}

// EventKind groups events for filters and colours.
type EventKind string

const (
	EventNode    EventKind = "node"    // joined, lost, drained, removed
	EventLink    EventKind = "link"    // a link fell silent or came back
	EventFence   EventKind = "fence"   // proof obtained, or not
	EventService EventKind = "service" // deployed, moved, failed, removed
	EventImage   EventKind = "image"
	EventCluster EventKind = "cluster" // formed, coordinator changed
	EventStorage EventKind = "storage" // a SAN, a disk or a volume was made, tested, removed, or is in trouble
)

// State is a consistent copy of the ledger at Revision. Slices are sorted by key. Whoever gets a State
// must not change it: it is shared.
type State struct {
	Revision   int64
	Meta       Meta
	Nodes      []Node
	Services   []Service
	Instances  []Instance
	Statuses   []Status
	Images     []Image
	BMCs       []BMC
	Fences     []Fence
	FenceRate  FenceRate
	Watchdogs  []WatchdogPolicy
	LedgerDisk *ClusterDisk // nil: there is none
	Admission  *Admission   // nil: nothing was decided yet
	SANs       []SAN
	Disks      []Disk
	Volumes    []VolumeRecord
	Kept       []KeptBlob
	Shared     []SharedRecord
	Updates    []Update
	Reports    []SharedReport
	Ports      []NodePorts
	Age        Age
	NodeCerts  []NodeCerts
	Users      []User
	Netboot    *NetbootRecord // nil: members boot no machines

	RegistryUsers []RegistryUser
	RegistryHosts []RegistryHost
	// Events are not part of it: they are read by whoever shows them.
}

// Node finds a node by name, nil if there is none.
func (s *State) Node(name string) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			return &s.Nodes[i]
		}
	}
	return nil
}

// Status finds the status of an instance, nil if its node has not reported yet.
func (s *State) Status(id string) *Status {
	for i := range s.Statuses {
		if s.Statuses[i].ID == id {
			return &s.Statuses[i]
		}
	}
	return nil
}
