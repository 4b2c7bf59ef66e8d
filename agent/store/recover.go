package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/cluster"
)

// revisionBump is by how much the revision rises when a ledger is restored: more than anybody can have
// committed that this member did not see. At a thousand transactions a second that would be eleven days.
const revisionBump = 1_000_000_000

// Stranded tells that this node's member votes in a ledger without a leader, for longer than an election
// takes: it can commit nothing, and nobody can through it. It returns what a machine that asks to join may
// pledge to.
func (s *Store) Stranded() (cluster.Pledge, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local == nil || s.lost.IsZero() || time.Since(s.lost) < s.cfg.RestoreAfter || s.frozenMeta.ID == "" {
		return cluster.Pledge{}, false
	}
	p := cluster.Pledge{ClusterID: s.frozenMeta.ID, Node: s.cfg.Name, BootID: s.cfg.BootID, Incarnation: s.frozenMeta.Incarnation}
	if s.exact {
		p.Copy = s.frozenRev
	}
	return p, true
}

// Frozen tells since when the ledger takes no commits, as far as this node knows, and what is missing, in
// clauses; zero while it does.
func (s *Store) Frozen() (since time.Duration, waits []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost.IsZero() || time.Since(s.lost) < s.cfg.RestoreAfter {
		return 0, nil
	}
	return time.Since(s.lost), s.waits
}

// HasCopy tells that this node votes, or is the voter that is restoring the ledger: others may have to follow
// it, and it follows nobody.
func (s *Store) HasCopy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.local != nil || s.recovering
}

// Incarnation is that of the ledger that was last restored here, 0 if none was: a State of a lower one is
// what was before.
func (s *Store) Incarnation() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restored
}

// Asked takes evidence: a machine has just proved the join token, and that it is in this boot. It counts
// while the ledger has no leader.
func (s *Store) Asked(node, machineID, bootID string, p cluster.Pledge) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost.IsZero() {
		return
	}
	now := time.Now()
	first := now
	if before, ok := s.asked[node]; ok && before.bootID == bootID && before.machineID == machineID {
		first = before.begun
	}
	s.asked[node] = asked{now, first, evidence{machineID: machineID, bootID: bootID, seen: p.Seen,
		pledged: p.Node == s.cfg.Name && p.BootID == s.cfg.BootID && p.ClusterID == s.frozenMeta.ID}}
}

// asked is evidence, when it came, and when evidence of that boot first came.
type asked struct {
	at, begun time.Time
	evidence
}

// LocalSecret reads a secret from this member's own copy, without asking the others.
func (s *Store) LocalSecret(ctx context.Context, name string) (data []byte, err error) {
	v := s.voter()
	if v == nil {
		return nil, errors.New("this node has no copy of the ledger")
	}
	r, err := v.client.Get(ctx, cluster.KeySecrets+name, clientv3.WithSerializable())
	if err != nil {
		return nil, fmt.Errorf("read secret %s from the own copy: %w", name, err)
	}
	if len(r.Kvs) == 0 {
		return nil, fmt.Errorf("secret %s: %w", name, ErrNoSecret)
	}
	return data, json.Unmarshal(r.Kvs[0].Value, &data)
}

// Promise gives a pledge, or takes it back (nil): while it holds this store does not become a voter. When it
// returns, no attempt is under way, and nothing is left of one. An error: this node votes, or may.
func (s *Store) Promise(p *cluster.Pledge) error {
	s.mu.Lock()
	s.pledge = p
	if p != nil && s.abandon != nil {
		s.abandon()
	}
	s.mu.Unlock()
	if p == nil {
		return nil
	}
	s.promoting.Lock()
	defer s.promoting.Unlock()
	if s.HasCopy() {
		s.mu.Lock()
		s.pledge = nil
		s.mu.Unlock()
		return errors.New("a voter cannot promise its vote away")
	}
	s.ending.Wait()
	return wipe(s.cfg.DataDir)
}

var errPledged = errors.New("this node has promised to follow another ledger")

// pledged is not nil while a pledge holds.
func (s *Store) pledged() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pledge == nil {
		return nil
	}
	return fmt.Errorf("%w: that of %s", errPledged, s.pledge.Node)
}

// noteLeader keeps since when there has been no leader. Called with mu held.
func (s *Store) noteLeader(there bool) {
	switch {
	case there:
		s.lost, s.waits, s.exact = time.Time{}, nil, false
		clear(s.asked)
	case s.lost.IsZero():
		s.lost = time.Now()
	}
}

// recover restores the ledger on this member alone, if it has lost its majority for good and that is safe.
func (s *Store) recover(ctx context.Context) error {
	s.mu.Lock()
	without := time.Duration(0)
	if !s.lost.IsZero() {
		without = time.Since(s.lost)
	}
	s.mu.Unlock()
	if without < s.cfg.RestoreAfter {
		return nil
	}
	s.promoting.Lock()
	defer s.promoting.Unlock()
	v := s.voter()
	if v == nil {
		return nil
	}
	applied := v.applied() // before it is read: whatever is applied later has to be judged again
	j, err := s.judge(ctx, v)
	if err != nil || !j.restore {
		return err
	}
	s.cfg.Log.Warn("restoring the ledger on this node alone: all other nodes wait for it", "revision", j.From)
	s.mu.Lock()
	s.recovering = true // without a member for a while, and yet the one that has the ledger
	s.mu.Unlock()
	s.setVoter(nil)
	v.kill()
	v, err = s.restore(ctx, applied, j)
	for v == nil && pause(ctx, s.cfg.TryTimeout) {
		var again error
		if s.unannounced() {
			v, again = s.finishRestore(ctx)
		} else {
			v, again = s.frozen(err)
		}
		if again != nil {
			s.cfg.Log.Error("this node's member does not start again; its log is still there", "err", again)
		}
	}
	if v != nil {
		s.setVoter(v)
		s.mu.Lock()
		s.recovering = false
		s.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("restore the ledger: %w", err)
	}
	return nil
}

// judgement is a verdict, and what a restoration that follows from it has to commit.
type judgement struct {
	verdict
	// complete is the verdict if nothing in the log is left to be applied.
	complete verdict
	restoration
}

// restoration is what a restored ledger must say before anybody reads it.
type restoration struct {
	Incarnation uint64            `json:"incarnation"`
	From        int64             `json:"from"`           // revision
	Boots       map[string]string `json:"boots"`          // in which the machines asked, by node
	Disk        string            `json:"disk,omitempty"` // it comes from the cluster disk, and why
}

// judge decides on what the member's own copy of the ledger says.
func (s *Store) judge(ctx context.Context, v *voter) (j judgement, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	st, err := s.readFrom(ctx, v.client, clientv3.WithSerializable())
	if err != nil {
		return j, fmt.Errorf("read the own copy of the ledger: %w", err)
	}
	x := stranded{self: cluster.Node{Name: s.cfg.Name, BootID: s.cfg.BootID}, after: s.cfg.RestoreAfter, nodes: st.Nodes, asked: map[string]evidence{}}
	for _, m := range v.etcd.Server.Cluster().Members() {
		if uint64(m.ID) == v.id {
			x.voter = !m.IsLearner
		}
		x.members = append(x.members, copyHolder{m.Name, m.IsLearner})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozenMeta, s.frozenRev = st.Meta, st.Revision
	if s.exact {
		x.revision = st.Revision
	}
	if !s.lost.IsZero() {
		x.without = time.Since(s.lost)
	}
	for name, a := range s.asked {
		a.age, a.first = time.Since(a.at), time.Since(a.begun)
		x.asked[name] = a.evidence
	}
	j.verdict = judge(x)
	x.revision = st.Revision
	j.complete = judge(x)
	j.restoration = restoration{Incarnation: st.Meta.Incarnation + 1, From: st.Revision, Boots: map[string]string{}}
	for name, e := range x.asked {
		j.Boots[name] = e.bootID
	}
	s.waits = j.waits
	return j, nil
}

func (v *voter) applied() uint64 { return v.etcd.Server.AppliedIndex() }

// restore makes the stopped member's log the ledger of a new cluster with this member alone, and starts it.
// Whatever fails before the old log is replaced leaves the member as it was, frozen.
func (s *Store) restore(ctx context.Context, applied uint64, j judgement) (*voter, error) {
	// All that is in the log becomes part of the ledger, committed or not: this member may have
	// acknowledged it for a leader that then told a client that it is done.
	last, err := commitLog(s.cfg.DataDir, s.cfg.Log)
	if err != nil {
		return s.frozen(err)
	}
	if last > applied {
		v, err := s.openOwn()
		if err != nil {
			return nil, err
		}
		for v.applied() < last {
			select {
			case <-v.etcd.Server.StopNotify():
				v.etcd.Close()
				return nil, errors.New("the others have removed this member")
			default:
			}
			if !pause(ctx, 10*time.Millisecond) {
				v.kill()
				return nil, fmt.Errorf("apply what is left of the log: %w", context.Cause(ctx))
			}
		}
		// What was left may have named more nodes.
		s.applied()
		if j, err = s.judge(ctx, v); err != nil || !j.restore {
			return v, err
		}
		v.kill()
	}
	s.applied()
	if !j.complete.restore {
		return s.frozen(errors.New(strings.Join(j.complete.waits, "; ")))
	}
	old, next := filepath.Join(s.cfg.DataDir, "member"), filepath.Join(s.cfg.DataDir, "restored")
	if err := os.RemoveAll(next); err != nil {
		return s.frozen(err)
	}
	s.mu.Lock()
	meta := s.frozenMeta
	s.mu.Unlock()
	pu := s.cfg.peerURL()
	err = snapshot.NewV3(zapLogger(s.cfg.Log)).Restore(snapshot.RestoreConfig{
		SnapshotPath: filepath.Join(old, "snap", "db"), SkipHashCheck: true, // it is the member's own file
		Name: s.cfg.memberName(), OutputDataDir: next, PeerURLs: []string{pu.String()},
		InitialCluster: s.cfg.memberName() + "=" + pu.String(),
		// Another token is another cluster: a member of the old one is refused by its id.
		InitialClusterToken: fmt.Sprintf("%s.%d.%s", meta.ID, meta.Incarnation+1, s.cfg.BootID),
		RevisionBump:        revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return s.frozen(err)
	}
	// With the database, at once: an agent that ends before the rest is done leaves it to the next one.
	data, err := json.Marshal(j.restoration)
	if err == nil {
		err = os.WriteFile(filepath.Join(next, "member", restorationFile), data, 0o600)
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, old, unix.AT_FDCWD, filepath.Join(next, "member"), unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return s.frozen(err)
	}
	if err := os.RemoveAll(next); err != nil {
		s.cfg.Log.Warn("what is left of the old ledger takes memory", "err", err)
	}
	return s.finishRestore(ctx)
}

// applied notes that the own copy has all that is in the log.
func (s *Store) applied() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exact = !s.lost.IsZero()
}

// restorationFile lies beside a database that was restored and does not say so yet.
const restorationFile = "restoration.json"

func (s *Store) restorationPath() string {
	return filepath.Join(s.cfg.DataDir, "member", restorationFile)
}

func (s *Store) unannounced() bool {
	_, err := os.Stat(s.restorationPath())
	return err == nil
}

// finishRestore has the restored ledger say that it is one, and then opens it to all. Before that nobody else
// reads it: who saw a revision of it under the old incarnation would later be taken for one that acted on what
// is lost.
func (s *Store) finishRestore(ctx context.Context) (*voter, error) {
	var r restoration
	data, err := os.ReadFile(s.restorationPath())
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("what the restored ledger should say: %w", err)
	}
	private := s.cfg
	private.private = true
	v, err := openVoter(&private, "", embed.ClusterStateFlagExisting, s.ownOnly(), false)
	if err != nil {
		return nil, err
	}
	if err := v.await(ctx); err != nil {
		return nil, err
	}
	for {
		tctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
		err := s.announceRestored(tctx, v, r)
		cancel()
		if err == nil {
			break
		}
		if !pause(ctx, s.cfg.TryTimeout) {
			v.kill()
			return nil, err
		}
	}
	v.kill()
	if err := os.Remove(s.restorationPath()); err != nil {
		return nil, fmt.Errorf("note that the ledger is restored: %w", err)
	}
	if v, err = s.openOwn(); err != nil {
		return nil, err
	}
	if err := v.await(ctx); err != nil {
		return nil, err
	}
	return v, nil
}

// openOwn starts this node's member with the log it has, and does not wait for a leader.
func (s *Store) openOwn() (*voter, error) {
	return openVoter(&s.cfg, "", embed.ClusterStateFlagExisting, s.ownOnly(), false)
}

// ownOnly is a list of members that is this one; a member that has a log does not look at it.
func (s *Store) ownOnly() []string {
	pu := s.cfg.peerURL()
	return []string{s.cfg.memberName() + "=" + pu.String()}
}

// frozen starts the member as it was after a failed attempt.
func (s *Store) frozen(why error) (*voter, error) {
	v, err := s.openOwn()
	if err != nil {
		return nil, errors.Join(why, err)
	}
	s.cfg.Log.Error("the ledger could not be restored and stays frozen", "err", why)
	return v, nil
}

// announceRestored raises the incarnation and commits, with it, in which boots the nodes are that restarted.
// It may be repeated.
func (s *Store) announceRestored(ctx context.Context, v *voter, r restoration) error {
	st, err := s.readFrom(ctx, v.client)
	if err != nil {
		return err
	}
	if st.Meta.Incarnation >= r.Incarnation {
		s.noteRestored(r)
		return nil
	}
	meta := st.Meta
	meta.Incarnation, meta.RestoredFrom = r.Incarnation, r.From
	var restarted []string
	puts := []clientv3.Op{}
	put := func(key string, value any) error {
		data, err := json.Marshal(value)
		puts = append(puts, clientv3.OpPut(key, string(data)))
		return err
	}
	for _, n := range st.Nodes {
		if boot, ok := r.Boots[n.Name]; ok && boot != n.BootID {
			// Not lost: nobody is to cut its power, it is about to come in.
			if n.State != cluster.NodeDraining && n.State != cluster.NodeDrained {
				n.State = cluster.NodeJoining
			}
			n.Reason = fmt.Sprintf("it asked to join in a new boot (%.8s): the one before (%.8s) has ended", boot, n.BootID)
			n.BootID, n.Epoch, n.Voter, n.MemberID = boot, uint64(st.Revision), false, 0
			restarted = append(restarted, n.Name)
			if err := put(n.Key(), n); err != nil {
				return err
			}
		} else if !ok && r.Disk != "" {
			// All lost power, so this one is off, and nothing is to be given to it before it comes back. If it is
			// not off, it was shut off from the disk, and this boot of it does not come back.
			n.State, n.Reason = cluster.NodeLost, "it was not there when the ledger was restored from the cluster disk"
			n.Voter, n.MemberID = false, 0
			if err := put(n.Key(), n); err != nil {
				return err
			}
		}
	}
	event := cluster.Event{Time: time.Now(), Node: s.cfg.Name, Kind: cluster.EventCluster, Subject: s.cfg.Name,
		Text: fmt.Sprintf("the ledger was restored on %s alone, as its incarnation %d", s.cfg.Name, meta.Incarnation),
		Why: fmt.Sprintf("it had lost its majority for good: %s restarted and every other node follows %s; what only the lost voters knew is lost",
			strings.Join(restarted, ", "), s.cfg.Name)}
	if r.Disk != "" {
		event.Text = fmt.Sprintf("the ledger was restored on %s from the cluster disk, as its incarnation %d, from revision %d", s.cfg.Name, meta.Incarnation, r.From)
		event.Why = r.Disk
	}
	if err := errors.Join(put(cluster.KeyMeta, meta), put(s.eventKey(), event)); err != nil {
		return err
	}
	if _, err := v.client.Txn(ctx).Then(puts...).Commit(); err != nil {
		return err
	}
	s.noteRestored(r)
	return nil
}

func (s *Store) noteRestored(r restoration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restored = r.Incarnation
}

// commitLog marks everything in a stopped member's log as committed and returns the index of its end.
func commitLog(dataDir string, log *slog.Logger) (last uint64, err error) {
	fail := func(err error) (uint64, error) { return 0, fmt.Errorf("commit what is left of the log: %w", err) }
	lg, dir := zapLogger(log), filepath.Join(dataDir, "member", "wal")
	at := &walpb.Snapshot{}
	snaps, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return fail(err)
	}
	if len(snaps) > 0 {
		at = snaps[len(snaps)-1]
	}
	w, err := wal.Open(lg, dir, at)
	if err != nil {
		return fail(err)
	}
	defer func() {
		if cerr := w.Close(); err == nil && cerr != nil {
			last, err = fail(cerr)
		}
	}()
	_, hard, entries, err := w.ReadAll()
	if err != nil {
		return fail(err)
	}
	last = hard.GetCommit()
	if len(entries) == 0 || entries[len(entries)-1].GetIndex() <= last {
		return last, nil
	}
	last = entries[len(entries)-1].GetIndex()
	hard.Commit = &last
	if err := w.Save(hard, nil); err != nil {
		return fail(err)
	}
	return last, nil
}
