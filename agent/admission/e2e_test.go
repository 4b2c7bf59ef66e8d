package admission_test

import (
	"context"
	"encoding/hex"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"crypto/tls"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/seed"
	"github.com/skein-os/skein/agent/store"
)

// The whole way with the real ledger: found, bootstrap, join through the API, open the ledger with what
// was handed out.
func TestFromFoundingToTheLedger(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	token := make([]byte, 32)
	token[0] = byte(os.Getpid())
	sd := &seed.Seed{Cluster: "lab", Token: hex.EncodeToString(token), Expect: 1,
		Network: netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(1 + (os.Getpid()+77)%250), 0, 0}), 16)}
	request := func(name string) admission.Request {
		return admission.Request{Cluster: "lab", Name: name, MachineID: "machine-" + name, BootID: "boot-of-" + name}
	}
	config := func(a *admission.Admitted) store.Config {
		dir := t.TempDir()
		files := pki.FilesIn(filepath.Join(dir, "pki"))
		if err := files.Write(a.CA, a.Cert, a.Key); err != nil {
			t.Fatal(err)
		}
		return store.Config{Name: a.Node.Name, BootID: a.Node.BootID, DataDir: filepath.Join(dir, "etcd"),
			Addr: a.Meta.Network.NodeAddr(a.Node.Number), ClientPort: 32379, PeerPort: 32380,
			CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key}
	}
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	first, txn, err := admission.Found(sd, request("n1"), key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(first)
	s, err := store.Bootstrap(ctx, cfg, first.Meta, txn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	conf, err := pki.ServerTLS(pki.Files{CA: cfg.CAFile, Cert: cfg.CertFile, Key: cfg.KeyFile})
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewUnstartedServer(admission.NewServer("n1", s, slog.New(slog.DiscardHandler)))
	api.Listener = tls.NewListener(api.Listener, conf)
	api.Start()
	defer api.Close()
	addr := netip.MustParseAddrPort(api.Listener.Addr().String())
	if key, err = pki.NewKey(); err != nil {
		t.Fatal(err)
	}
	second, err := admission.Join(ctx, addr, token, key, request("n2"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := store.OpenClient(ctx, config(second), second.Endpoints)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	st, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(st.Nodes) != 2 || !st.Nodes[0].Voter || st.Nodes[1].Number != 2 || st.Nodes[1].State != cluster.NodeJoining || st.Nodes[1].Epoch <= st.Nodes[0].Epoch {
		t.Errorf("nodes: %+v", st.Nodes)
	}
	var texts []string
	if err := c.Events(ctx, 0, false, func(e cluster.Event) error { texts = append(texts, e.Text); return nil }); err != nil || len(texts) != 2 {
		t.Errorf("events: %q, %v", texts, err)
	}

	// An operator's certificate is of the same CA, but does not open the ledger.
	ca, err := pki.ParseCA(first.CA, secret(t, ctx, s, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	der, err := pki.NewCSR(key, "ann")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	op := *second
	if op.Cert, err = ca.SignPerson(csr, "ann", pki.RoleAdmin, pki.Stamp{}); err != nil {
		t.Fatal(err)
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if o, err := store.OpenClient(short, config(&op), second.Endpoints); err == nil {
		o.Close()
		t.Error("an operator's certificate opens the ledger")
	}
}

func secret(t *testing.T, ctx context.Context, s *store.Store, name string) []byte {
	t.Helper()
	data, err := s.Secret(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
