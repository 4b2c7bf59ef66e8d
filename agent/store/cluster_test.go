package store

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
)

// testCluster is a cluster on loopback addresses, node n at 127.x.n.1, with a CA of its own.
type testCluster struct {
	t    testing.TB
	ca   *pki.CA
	meta cluster.Meta
	dir  string
	log  *slog.Logger
}

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	ca, err := pki.NewCA("test", "0123")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("SKEIN_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return &testCluster{t: t, ca: ca, dir: t.TempDir(), log: log, meta: cluster.Meta{
		Name: "test", ID: "0123",
		Network: cluster.Network{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{127, byte(1 + os.Getpid()%250), 0, 0}), 16)},
		Created: time.Now(),
	}}
}

func bootID(n, boot int) string { return fmt.Sprintf("%04d%04d-1111-2222-3333-444444444444", n, boot) }

// config is that of a boot of a node; each boot has a data directory of its own.
func (tc *testCluster) config(n, boot int) Config {
	tc.t.Helper()
	name := fmt.Sprintf("n%d", n)
	dir := filepath.Join(tc.dir, fmt.Sprintf("%s.%d", name, boot))
	files := pki.FilesIn(filepath.Join(dir, "pki"))
	key, err := pki.NewKey()
	if err != nil {
		tc.t.Fatal(err)
	}
	der, err := pki.NewCSR(key, name)
	if err != nil {
		tc.t.Fatal(err)
	}
	csr, err := pki.ParseCSR(der)
	if err != nil {
		tc.t.Fatal(err)
	}
	addr := tc.meta.Network.NodeAddr(uint8(n))
	cert, err := tc.ca.SignNode(csr, name, []netip.Addr{addr}, pki.NewSerial(), pki.Stamp{Boot: pki.BootMark(bootID(n, boot))})
	if err != nil {
		tc.t.Fatal(err)
	}
	keyPEM, err := pki.KeyPEM(key)
	if err != nil {
		tc.t.Fatal(err)
	}
	if err := files.Write(tc.ca.CertPEM(), cert, keyPEM); err != nil {
		tc.t.Fatal(err)
	}
	return Config{
		Name: name, BootID: bootID(n, boot), DataDir: filepath.Join(dir, "etcd"), Addr: addr,
		ClientPort: 22379, PeerPort: 22380,
		CAFile: files.CA, CertFile: files.Cert, KeyFile: files.Key,
		KeepEvery: 200 * time.Millisecond, Log: tc.log.With("node", name),
	}
}

func (tc *testCluster) node(n, boot int, state cluster.NodeState) cluster.Node {
	return cluster.Node{Name: fmt.Sprintf("n%d", n), Number: uint8(n), BootID: bootID(n, boot), State: state}
}

func (tc *testCluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	tc.t.Cleanup(cancel)
	return ctx
}

// closing closes the store when the test ends, if the test did not.
func (tc *testCluster) closing(s *Store, err error) *Store {
	tc.t.Helper()
	if err != nil {
		tc.t.Fatal(err)
	}
	tc.t.Cleanup(s.Close)
	return s
}

func (tc *testCluster) bootstrap(ctx context.Context) *Store {
	tc.t.Helper()
	return tc.closing(Bootstrap(ctx, tc.config(1, 0), tc.meta, cluster.Txn{}))
}

// three is a cluster of three voters; the first one leads.
func (tc *testCluster) three(ctx context.Context) []*Store {
	tc.t.Helper()
	a := tc.bootstrap(ctx)
	type joined struct {
		s   *Store
		err error
	}
	ch := make(chan joined, 2)
	cfgs := []Config{tc.config(2, 0), tc.config(3, 0)}
	for _, cfg := range cfgs {
		go func() {
			s, err := JoinVoter(ctx, cfg, a.Endpoints())
			ch <- joined{s, err}
		}()
	}
	all := []*Store{a}
	for range 2 {
		j := <-ch
		all = append(all, tc.closing(j.s, j.err))
	}
	return all
}

// leaderOf waits until one of the stores leads.
func leaderOf(t testing.TB, ctx context.Context, stores []*Store) int {
	t.Helper()
	for {
		for i, s := range stores {
			if s.Leader() {
				return i
			}
		}
		if !pause(ctx, 10*time.Millisecond) {
			t.Fatal("nobody leads")
		}
	}
}

func mustCommit(t testing.TB, ctx context.Context, s *Store, txn cluster.Txn) int64 {
	t.Helper()
	rev, ok, err := s.Commit(ctx, txn)
	if err != nil || !ok {
		t.Fatalf("commit: ok %v, err %v", ok, err)
	}
	return rev
}

// crash ends a store as a power cut does.
func (s *Store) crash() {
	s.cancel()
	s.wg.Wait()
	if v := s.voter(); v != nil {
		s.setVoter(nil)
		for _, l := range v.etcd.Clients {
			l.Close()
		}
		v.kill()
	}
	s.closeConns()
}
