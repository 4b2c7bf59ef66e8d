package store

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// A voter in a process of its own can be killed as a power cut does, and its memory measured. The test
// binary is started again as that process.
const voterEnv = "SKEIN_TEST_VOTER"

// voterProcess is what such a process is told.
type voterProcess struct {
	Config    Config
	Meta      cluster.Meta
	Endpoints []string // none: bootstrap
}

func TestMain(m *testing.M) {
	if spec := os.Getenv(voterEnv); spec != "" {
		if err := runVoter(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runVoter tells on its output when it is a voter and whenever it begins or ceases to lead, until its
// input ends.
func runVoter(spec string) error {
	var v voterProcess
	if err := json.Unmarshal([]byte(spec), &v); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var s *Store
	var err error
	if len(v.Endpoints) == 0 {
		s, err = Bootstrap(ctx, v.Config, v.Meta, cluster.Txn{})
	} else {
		s, err = JoinVoter(ctx, v.Config, v.Endpoints)
	}
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("voter")
	ended := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
		close(ended)
	}()
	for led := false; ; {
		changes := s.Changes()
		if is := s.Leader(); is != led {
			led = is
			fmt.Println("leader", is)
		}
		select {
		case <-changes:
		case <-ended:
			return nil
		}
	}
}

type proc struct {
	cmd   *exec.Cmd
	lines chan string
	url   string
}

func startProcess(t *testing.T, v voterProcess) *proc {
	t.Helper()
	v.Config.Log = nil
	spec, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	u := v.Config.clientURL()
	p := &proc{cmd: exec.Command(os.Args[0]), lines: make(chan string, 100), url: u.String()}
	p.cmd.Env = append(os.Environ(), voterEnv+"="+string(spec))
	p.cmd.Stderr = os.Stderr
	if _, err := p.cmd.StdinPipe(); err != nil { // held open by the command: the process ends with this one
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			p.lines <- sc.Text()
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-read
		_ = p.cmd.Wait()
	})
	return p
}

func (p *proc) await(t *testing.T, want string) {
	t.Helper()
	for l := range p.lines {
		if l == want {
			return
		}
	}
	t.Fatalf("process ended before it said %q", want)
}

func (p *proc) rss() string {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for l := range strings.Lines(string(data)) {
		if strings.HasPrefix(l, "VmRSS:") {
			return strings.Join(strings.Fields(l)[1:], " ")
		}
	}
	return "unknown"
}

// Three voters in processes of their own; a client writes all the time; the leader is killed. Nothing that
// was acknowledged is lost, nothing happens twice, and the figures are in the log (-v).
func TestKilledLeader(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	tc := newTestCluster(t)
	ctx := tc.ctx()
	first := startProcess(t, voterProcess{Config: tc.config(1, 0), Meta: tc.meta})
	first.await(t, "voter")
	var procs []*proc
	for n := 2; n <= 3; n++ {
		procs = append(procs, startProcess(t, voterProcess{Config: tc.config(n, 0), Endpoints: []string{first.url}}))
	}
	for _, p := range procs {
		p.await(t, "voter")
	}
	procs = append([]*proc{first}, procs...)
	client := tc.closing(OpenClient(ctx, tc.config(9, 0), []string{first.url, procs[1].url, procs[2].url}))
	for len(client.Endpoints()) < 3 {
		pause(ctx, 10*time.Millisecond)
	}
	var sizes []string
	for _, p := range procs {
		sizes = append(sizes, p.rss())
	}
	t.Logf("RSS of the voters, empty cluster: %v", sizes)

	n := tc.node(9, 0, cluster.NodeOnline)
	rev := mustCommit(t, ctx, client, put(n, 0))
	var gap time.Duration
	var steady []time.Duration
	acknowledged := int64(0)
	killed := time.Time{}
	for i := range 400 {
		if i == 200 {
			at := slices.IndexFunc(procs, func(p *proc) bool { return "n"+fmt.Sprint(slices.Index(procs, p)+1) == client.Coordinator() })
			if at < 0 {
				t.Fatalf("coordinator is %q", client.Coordinator())
			}
			if err := procs[at].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			killed = time.Now()
		}
		begin := time.Now()
		n.Memory++
		rev = mustCommit(t, ctx, client, put(n, rev))
		acknowledged++
		took := time.Since(begin)
		gap = max(gap, took)
		if killed.IsZero() {
			steady = append(steady, took)
		}
	}
	slices.Sort(steady)
	t.Logf("commit: p50 %s, p99 %s; longest after the leader was killed: %s", steady[len(steady)/2], steady[len(steady)*99/100], gap)
	st, err := client.Read(ctx)
	if err != nil || st.Nodes[0].Memory != acknowledged || st.Nodes[0].Revision != rev {
		t.Errorf("after %d commits: %+v, %v", acknowledged, st, err)
	}
}
