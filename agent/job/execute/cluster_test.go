package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
	"github.com/skein-os/skein/agent/job/dispatch"
	"github.com/skein-os/skein/agent/job/worker"
	"github.com/skein-os/skein/agent/store"
)

// TestMain lets the test binary be a worker.
func TestMain(m *testing.M) {
	if worker.Called(os.Args) {
		os.Exit(worker.Main())
	}
	os.Exit(m.Run())
}

// ledger is what the coordinator needs of etcd.
type ledger struct {
	mu       sync.Mutex
	revision int64
	data     map[string][]byte
	at       map[string]int64
}

func (l *ledger) Commit(_ context.Context, t cluster.Txn) (int64, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range t.Conditions {
		if l.at[c.Key] != c.Revision {
			return l.revision, false, nil
		}
	}
	l.revision++
	for _, p := range t.Puts {
		data, err := json.Marshal(p.Value)
		if err != nil {
			return 0, false, err
		}
		l.data[p.Key], l.at[p.Key] = data, l.revision
	}
	for _, k := range t.Deletes {
		delete(l.data, k)
		delete(l.at, k)
	}
	return l.revision, true, nil
}

func (l *ledger) List(_ context.Context, prefix string) (out []store.Entry, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, v := range l.data {
		if strings.HasPrefix(k, prefix) {
			out = append(out, store.Entry{Key: k, Data: v})
		}
	}
	slices.SortFunc(out, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return out, nil
}

// recorded tells how often each position of a job is in the ledger.
func (l *ledger) recorded(t *testing.T, id string) map[int32]int {
	t.Helper()
	list, _ := l.List(context.Background(), job.KeyLog+id+"/")
	seen := map[int32]int{}
	for _, e := range list {
		out, err := job.DecodeOutcomes(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			for p := o.From; p < o.To; p++ {
				seen[p]++
			}
		}
	}
	return seen
}

// grid is a cluster in one process: coordinators that take turns, nodes with workers that are processes.
type grid struct {
	t      *testing.T
	ctx    context.Context
	ledger *ledger
	state  atomic.Pointer[cluster.State]
	leader atomic.Int32
	turns  []*dispatch.Dispatch
	mu     sync.Mutex
	change chan struct{}
	nodes  map[string]context.CancelFunc
	output map[string]*Output
	wg     sync.WaitGroup
	launch func(context.Context, string, *job.Job) (Worker, error)
}

func newGrid(t *testing.T, nodes, slots int) *grid {
	ctx, cancel := context.WithCancel(t.Context())
	g := &grid{t: t, ctx: ctx, ledger: &ledger{data: map[string][]byte{}, at: map[string]int64{}}, change: make(chan struct{}),
		nodes: map[string]context.CancelFunc{}, output: map[string]*Output{}, launch: launchProcess}
	st := &cluster.State{Images: []cluster.Image{{Ref: "tools:1", Digest: "sha256:1"}}}
	for i := range nodes {
		st.Nodes = append(st.Nodes, cluster.Node{Name: fmt.Sprintf("n%d", i+1), BootID: "boot1", State: cluster.NodeOnline, CPUs: float64(slots), Memory: 1 << 30})
	}
	g.state.Store(st)
	t.Cleanup(func() { cancel(); g.wg.Wait() })
	start := time.Now()
	for i := range 2 {
		d := dispatch.New(dispatch.Config{Self: fmt.Sprintf("c%d", i), Ledger: g.ledger, State: g.state.Load, Leader: func() bool { return int(g.leader.Load()) == i },
			Changes: g.changes, Now: func() time.Duration { return time.Since(start) + time.Second }, Log: slog.New(slog.DiscardHandler)})
		g.turns = append(g.turns, d)
		g.wg.Go(func() { d.Run(ctx) })
	}
	for _, n := range st.Nodes {
		g.boot(n.Name, "boot1", slots)
	}
	return g
}

func (g *grid) changes() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.change
}

// lead makes the other one the coordinator.
func (g *grid) lead(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leader.Store(int32(i))
	close(g.change)
	g.change = make(chan struct{})
}

func (g *grid) coordinator() *dispatch.Dispatch { return g.turns[g.leader.Load()] }

func (g *grid) boot(name, boot string, slots int) {
	out, err := OpenOutput(g.t.TempDir(), 1<<20, 4<<20)
	if err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(g.ctx)
	g.nodes[name], g.output[name] = cancel, out
	r := New(Config{Node: name, Life: boot + ".a", CPUs: float64(slots), Memory: 1 << 30, Changes: g.changes, Output: out, Log: slog.New(slog.DiscardHandler),
		Ask: func(ctx context.Context, p *job.Pull) (job.Answer, error) {
			// Over the network it would be a copy.
			data, err := json.Marshal(p)
			if err != nil {
				return job.Answer{}, err
			}
			var copied job.Pull
			if err := json.Unmarshal(data, &copied); err != nil {
				return job.Answer{}, err
			}
			return g.coordinator().Pull(ctx, &copied)
		},
		Launch: func(ctx context.Context, n string, j *job.Job) (Worker, error) { return g.launch(ctx, n, j) }})
	g.wg.Go(func() { r.Run(ctx) })
}

// node changes what the ledger says of a node.
func (g *grid) node(name string, change func(*cluster.State, *cluster.Node)) {
	next := *g.state.Load()
	next.Nodes = slices.Clone(next.Nodes)
	change(&next, next.Node(name))
	g.state.Store(&next)
}

func (g *grid) submit(s job.Spec, inputs ...string) job.Job {
	g.t.Helper()
	s.Image = "tools:1"
	if s.Name == "" {
		s.Name = "test"
	}
	for {
		j, err := g.coordinator().Submit(g.ctx, s, inputs, "tester")
		if err == nil {
			return j
		}
		if !errors.Is(err, dispatch.ErrElsewhere) {
			g.t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // until there is a coordinator
	}
}

// await waits until a job is as it should be.
func (g *grid) await(id string, ready func(job.Progress) bool) job.Progress {
	g.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		p, err := g.coordinator().Show(id)
		if err == nil && ready(p) {
			return p
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("job %s never came to what is awaited: %+v, %v", id, p, err)
		}
		time.Sleep(2 * time.Millisecond) // between two looks
	}
}

func ended(p job.Progress) bool { return p.State.Ended() }

type processWorker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
	end func() error
}

func (p *processWorker) In() io.Writer  { return p.in }
func (p *processWorker) Out() io.Reader { return p.out }
func (p *processWorker) Close() error   { return p.end() }

func launchProcess(context.Context, string, *job.Job) (Worker, error) {
	p := &processWorker{cmd: exec.Command(os.Args[0])}
	p.cmd.Args[0] = worker.Name
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	p.end = sync.OnceValue(func() error {
		p.in.Close()
		_, _ = io.Copy(io.Discard, p.out)
		_ = p.cmd.Wait()
		return nil
	})
	return p, p.cmd.Start()
}

func numbers(n int) job.Indices { return job.Indices{{First: 1, Last: int64(n)}} }

// A node is lost and the coordinator changes, twice, in the middle of a job: each index is recorded once, and its output is
// where the record says.
func TestJobOverFaults(t *testing.T) {
	g := newGrid(t, 3, 2)
	const n = 400
	j := g.submit(job.Spec{Command: []string{"sh", "-c", "echo {}"}, Indices: numbers(n)})
	g.await(j.ID, func(p job.Progress) bool { return p.OK > n/8 })
	g.lead(1)
	g.await(j.ID, func(p job.Progress) bool { return p.OK > n/4 })
	g.nodes["n2"]()
	g.node("n2", func(st *cluster.State, n *cluster.Node) {
		n.State = cluster.NodeLost
		st.Fences = []cluster.Fence{{Node: "n2", BootID: "boot1", State: cluster.FenceOff}}
	})
	g.await(j.ID, func(p job.Progress) bool { return p.OK > n/2 })
	g.lead(0)
	p := g.await(j.ID, ended)
	if p.State != job.Done || p.OK != n || p.Bad != 0 {
		t.Fatalf("got %s with %d done, %d failed", p.State, p.OK, p.Bad)
	}
	seen := g.ledger.recorded(t, j.ID)
	for i := range int32(n) {
		if seen[i] != 1 {
			t.Errorf("position %d is recorded %d times", i, seen[i])
		}
	}
	_, list, err := g.coordinator().Outcomes(j.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range list {
		for i := o.From; i < o.To; i++ {
			var got string
			if err := g.output[o.Node].Read(j.ID, i, i+1, func(x Text) error { got = string(x.Stdout); return nil }); err != nil || got != fmt.Sprintln(i+1) {
				t.Errorf("output of task %d on %s: got %q, %v", i+1, o.Node, got, err)
			}
		}
	}
}

func TestJobsInOrder(t *testing.T) {
	g := newGrid(t, 2, 2)
	dir := t.TempDir()
	first := g.submit(job.Spec{Command: []string{"sh", "-c", "echo x > " + dir + "/{}"}, Indices: numbers(20)})
	then := g.submit(job.Spec{Command: []string{"cat", dir + "/{}"}, Indices: numbers(20), After: []string{first.ID}})
	bad := g.submit(job.Spec{Command: []string{"sh", "-c", "test {} != three || exit 9"}, Mapped: true, Indices: numbers(4), After: []string{then.ID}}, "one", "two", "three", "four")
	never := g.submit(job.Spec{Command: []string{"touch", dir + "/never"}, Indices: numbers(1), After: []string{bad.ID}})
	if p := g.await(then.ID, ended); p.State != job.Done {
		t.Errorf("the second job: %+v", p)
	}
	if p := g.await(bad.ID, ended); p.State != job.Failed || p.Bad != 1 || p.OK != 3 {
		t.Errorf("the third job: %+v", p)
	}
	if p := g.await(never.ID, ended); p.State != job.Cancelled || !strings.Contains(p.Reason, bad.ID) {
		t.Errorf("the job after one that failed: %+v", p)
	}
	if _, err := os.Stat(dir + "/never"); err == nil {
		t.Error("a job ran after one that failed")
	}
	again, err := g.coordinator().Retry(g.ctx, bad.ID, "tester")
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Spec.Indices.String(); got != "3" || g.coordinator().Input(again.ID, 0) != "three" {
		t.Errorf("what failed is run again as %s with input %q, want 3 and three", got, g.coordinator().Input(again.ID, 0))
	}
	var refused *dispatch.RefusedError
	if _, err := g.coordinator().Retry(g.ctx, first.ID, "tester"); !errors.As(err, &refused) {
		t.Errorf("to run again what did not fail: got %v", err)
	}
}

// A job that is cancelled is killed where it runs; no more than its limit ran at once.
func TestCancelAndLimit(t *testing.T) {
	g := newGrid(t, 2, 4)
	dir := t.TempDir()
	j := g.submit(job.Spec{Command: []string{"sh", "-c", "touch " + dir + "/{}; exec sleep 1000"}, Indices: numbers(100), Limit: 3})
	begun := func() int {
		list, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	for deadline := time.Now().Add(time.Minute); begun() < 3; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d tasks began, want 3", begun())
		}
	}
	if err := g.coordinator().Cancel(j.ID, "tester"); err != nil {
		t.Fatal(err)
	}
	if p := g.await(j.ID, ended); p.State != job.Cancelled || p.OK+p.Bad != 0 {
		t.Errorf("got %+v", p)
	}
	after := g.submit(job.Spec{Command: []string{"true"}, Indices: numbers(8)}) // there is room again
	g.await(after.ID, ended)
	if n := begun(); n != 3 {
		t.Errorf("%d tasks began, the limit is 3", n)
	}
}

// A worker that ends under its tasks, and one that cannot be started: told, and the job goes on elsewhere or later.
func TestWorkerTrouble(t *testing.T) {
	g := newGrid(t, 1, 2)
	var tries atomic.Int32
	g.launch = func(ctx context.Context, name string, j *job.Job) (Worker, error) {
		if tries.Add(1) == 1 {
			return nil, errors.New("no space left on device")
		}
		return launchProcess(ctx, name, j)
	}
	killer := `case {} in 5) kill -9 $PPID;; 6|7|8|9|10) sleep 0.3;; esac`
	j := g.submit(job.Spec{Command: []string{"sh", "-c", killer}, Indices: numbers(10), Retries: 0})
	p := g.await(j.ID, ended)
	if p.State != job.Failed || p.Bad == 0 || p.OK+p.Bad != 10 {
		t.Errorf("got %s with %d done and %d failed", p.State, p.OK, p.Bad)
	}
	if n := tries.Load(); n < 3 {
		t.Errorf("%d workers were started, want at least 3: one that fails, one that is killed, one that goes on", n)
	}
}

func TestIsolatedTasks(t *testing.T) {
	g := newGrid(t, 2, 2)
	var started atomic.Int32
	g.launch = func(ctx context.Context, name string, j *job.Job) (Worker, error) {
		started.Add(1)
		return launchProcess(ctx, name, j)
	}
	j := g.submit(job.Spec{Command: []string{"true"}, Indices: numbers(6), Isolate: true})
	if p := g.await(j.ID, ended); p.State != job.Done || started.Load() != 6 {
		t.Errorf("got %s with %d workers, want done with 6", p.State, started.Load())
	}
}

func TestRefused(t *testing.T) {
	g := newGrid(t, 2, 2)
	g.submit(job.Spec{Command: []string{"true"}, Indices: numbers(1)})
	for want, s := range map[string]job.Spec{
		"skein image load":       {Name: "a", Image: "other:1", Command: []string{"true"}, Indices: numbers(1)},
		"n1 has 2 CPUs":          {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), CPUs: 3},
		"MiB for jobs":           {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), Memory: 1 << 40},
		"does not exist":         {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), After: []string{"none"}},
		"there are 0 inputs":     {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), Mapped: true},
		"no command":             {Name: "a", Image: "tools:1", Indices: numbers(1)},
		"there is no index":      {Name: "a", Image: "tools:1", Command: []string{"true"}},
		"must be lower-case":     {Name: "A b", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1)},
		"it must be 0 to 100":    {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), Retries: 101},
		"shared file system":     {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), Shares: []cluster.SharedUse{{Folder: "x", Target: "/x"}}},
		"must be lease or power": {Name: "a", Image: "tools:1", Command: []string{"true"}, Indices: numbers(1), Safety: "none"},
	} {
		var refused *dispatch.RefusedError
		if _, err := g.coordinator().Submit(g.ctx, s, nil, "tester"); !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a refusal that says %q", err, want)
		}
	}
}

func TestOutputIsKept(t *testing.T) {
	dir := t.TempDir()
	o, err := OpenOutput(dir, 10_000, 15_000)
	if err != nil {
		t.Fatal(err)
	}
	put := func(id string, pos int32, text string) error {
		e := worker.End{Stdout: []byte(text), Stderr: []byte("e")}
		e.Pos = pos
		return o.Put(id, e)
	}
	read := func(id string) (out string) {
		if err := o.Read(id, 0, 100, func(x Text) error { out += fmt.Sprintf("%d:%s ", x.Pos, x.Stdout); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, p := range []int32{3, 1, 2} {
		if err := put("a", p, fmt.Sprint("t", p)); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("a", 1, "again"); err != nil {
		t.Fatal(err)
	}
	if got, want := read("a"), "1:again 2:t2 3:t3 "; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	f, err := os.OpenFile(dir+"/a", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte("half a record that an agent wrote as it was kill"))
	f.Close()
	if o, err = OpenOutput(dir, 10_000, 15_000); err != nil {
		t.Fatal(err)
	}
	if got, want := read("a"), "1:again 2:t2 3:t3 "; got != want {
		t.Errorf("after a restart: got %q, want %q", got, want)
	}
	if err := put("b", 1, strings.Repeat("x", 9000)); err != nil {
		t.Fatal(err)
	}
	if err := put("b", 2, strings.Repeat("x", 9000)); !errors.Is(err, ErrFull) {
		t.Errorf("more than is kept of one job: got %v", err)
	}
	if err := put("c", 1, strings.Repeat("x", 9000)); err != nil {
		t.Fatal(err)
	}
	if got := read("a") + read("b"); got != "" {
		t.Errorf("the oldest jobs' output is still there: %.20q", got)
	}
}
