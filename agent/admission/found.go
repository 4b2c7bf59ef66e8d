package admission

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/seed"
)

// Names of the ledger's secrets.
const (
	secretCACert    = "ca.pem"
	secretCAKey     = "ca.key"
	secretToken     = "token"
	secretHeartbeat = "heartbeat"
	secretOperators = "operators" // JSON list of key hashes
)

// Admitted is what a machine holds that is a member now.
type Admitted struct {
	CA, Cert, Key []byte // PEM
	Meta          cluster.Meta
	Node          cluster.Node
	HeartbeatKey  []byte   // 32 bytes, for package member's datagrams
	Endpoints     []string // etcd's; empty for the founder
	AdmittedBy    string   // node that admitted it, empty for the founder
	Token         Token    // only of who was approved: it had none
}

// Found makes a new cluster with this machine as its first node. The transaction is what the ledger
// begins with (store.Bootstrap); nothing has happened before it is committed.
func Found(s *seed.Seed, self Request, key *ecdsa.PrivateKey, now time.Time) (*Admitted, cluster.Txn, error) {
	fail := func(err error) (*Admitted, cluster.Txn, error) {
		return nil, cluster.Txn{}, fmt.Errorf("found cluster %s: %w", s.Cluster, err)
	}
	token, err := ParseToken(s.Token)
	if err != nil {
		return fail(err)
	}
	self.Version, self.Cluster, self.Role = Version, s.Cluster, RoleNode
	if self.CSR, err = pki.NewCSR(key, self.Name); err != nil {
		return fail(err)
	}
	if err := self.check(); err != nil {
		return fail(err)
	}
	id, heartbeat := make([]byte, 16), make([]byte, 32)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	_, _ = rand.Read(heartbeat)
	meta := cluster.Meta{
		Name: s.Cluster, ID: hex.EncodeToString(id), Network: cluster.Network{Prefix: s.Network},
		Incarnation: 1, Created: now,
	}
	ca, err := pki.NewCA(meta.Name, meta.ID, now)
	if err != nil {
		return fail(err)
	}
	node := self.node(1, 1)
	node.Voter = true
	csr, err := pki.ParseCSR(self.CSR)
	if err != nil {
		return fail(err)
	}
	cert, err := ca.SignNode(csr, node.Name, addresses(meta, &node), now)
	if err != nil {
		return fail(err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return fail(err)
	}
	caKey, err := ca.KeyPEM()
	if err != nil {
		return fail(err)
	}
	operators, err := json.Marshal(s.Operators)
	if err != nil {
		return fail(err)
	}
	secret := func(name string, data []byte) cluster.Put {
		return cluster.Put{Key: cluster.KeySecrets + name, Value: data}
	}
	first := cluster.Txn{
		Puts: []cluster.Put{
			{Key: node.Key(), Value: node},
			{Key: keyAllotted, Value: allotted{Node: node.Name, Number: node.Number}},
			secret(secretCACert, ca.CertPEM()), secret(secretCAKey, caKey), secret(secretToken, token),
			secret(secretHeartbeat, heartbeat), secret(secretOperators, operators),
		},
		Events: []cluster.Event{{Time: now, Node: node.Name, Kind: cluster.EventCluster, Subject: meta.Name,
			Text: fmt.Sprintf("cluster %s was formed by %s", meta.Name, &node),
			Why:  fmt.Sprintf("%d fresh machines saw each other and it has the lowest machine id", s.Expect)}},
	}
	return &Admitted{CA: ca.CertPEM(), Cert: cert, Key: keyPEM, Meta: meta, Node: node, HeartbeatKey: heartbeat}, first, nil
}

// Return makes what a member holds for a node of a cluster whose ledger is being restored, out of a copy of it: get
// is the value of a key. The node must be in it, as this machine.
func Return(get func(key string) []byte, st *cluster.State, self Request, key *ecdsa.PrivateKey, now time.Time) (*Admitted, error) {
	fail := func(err error) (*Admitted, error) {
		return nil, fmt.Errorf("come back as node %s of cluster %s: %w", self.Name, st.Meta.Name, err)
	}
	old := st.Node(self.Name)
	if old == nil || old.MachineID != self.MachineID {
		return fail(errors.New("the ledger does not know this machine, so another one has to restore it"))
	}
	secret := func(name string) []byte {
		var data []byte
		_ = json.Unmarshal(get(cluster.KeySecrets+name), &data) // empty is found out below
		return data
	}
	ca, err := pki.ParseCA(secret(secretCACert), secret(secretCAKey))
	if err != nil {
		return fail(err)
	}
	heartbeat := secret(secretHeartbeat)
	if len(heartbeat) == 0 {
		return fail(errors.New("the copy has no key for heartbeats"))
	}
	node := self.node(old.Number, uint64(st.Revision))
	node.Returns(old)
	der, err := pki.NewCSR(key, self.Name)
	if err != nil {
		return fail(err)
	}
	csr, err := pki.ParseCSR(der)
	if err != nil {
		return fail(err)
	}
	cert, err := ca.SignNode(csr, node.Name, addresses(st.Meta, &node), now)
	if err != nil {
		return fail(err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		return fail(err)
	}
	return &Admitted{CA: ca.CertPEM(), Cert: cert, Key: keyPEM, Meta: st.Meta, Node: node, HeartbeatKey: heartbeat}, nil
}

// node is the record of the machine that sent the request.
func (r *Request) node(number uint8, epoch uint64) cluster.Node {
	return cluster.Node{
		Name: r.Name, Number: number, MachineID: r.MachineID, BootID: r.BootID, Epoch: epoch,
		State: cluster.NodeJoining, Reason: "admitted, not ready yet", Links: r.Links, CPUs: r.CPUs, Memory: r.Memory,
		Labels: r.Labels, Version: r.Software, Witness: r.Witness, PublicKey: r.key,
	}
}

// addresses are those in the node's certificate.
func addresses(meta cluster.Meta, n *cluster.Node) []netip.Addr {
	list := []netip.Addr{meta.Network.NodeAddr(n.Number)}
	for _, l := range n.Links {
		if l.Addr.IsValid() {
			list = append(list, l.Addr.Addr())
		}
	}
	return list
}
