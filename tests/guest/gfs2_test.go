package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-os/skein/storage/shared"
)

// TestGFS2Alone runs the test of storage/gfs2 on one machine: the kernel's lock manager is driven by Skein.
func TestGFS2Alone(t *testing.T) {
	console := boot(t, []string{"loop"}, "github.com/skein-os/skein/storage/gfs2", "-test.v", "-test.run=GuestAlone", "-test.timeout=60s")
	if !strings.Contains(console, "--- PASS: TestGuestAlone") {
		t.Error("TestGuestAlone did not pass in the guest")
	}
}

// machineOrder and machineWord are what is said on a machine's second serial port: see storage/gfs2/guest_test.go.
type machineOrder struct {
	Membership *shared.Membership `json:"membership,omitempty"`
	Report     *shared.Report     `json:"report,omitempty"`
	Do         string             `json:"do,omitempty"`
	ID         int                `json:"id,omitempty"`
}

type machineWord struct {
	Report  *shared.Report `json:"report,omitempty"`
	Event   *shared.Event  `json:"event,omitempty"`
	Written int            `json:"written,omitempty"`
	Done    int            `json:"done,omitempty"`
	Result  string         `json:"result,omitempty"`
	Err     string         `json:"err,omitempty"`
}

// sharedSite is the machines, and what the cluster would be to them: the ledger, the coordinator, and the proof that
// a machine is off, because its emulator has ended.
type sharedSite struct {
	t         *testing.T
	g         guest
	dir, disk string
	port      int

	mu       sync.Mutex
	changed  *sync.Cond
	cur      shared.Membership
	reports  map[uint32]shared.Report
	dead     map[uint64]bool // incarnations, which differ between nodes too
	machines map[uint32]*sharedMachine
	ids      int
	lines    []string // of all consoles
}

type sharedMachine struct {
	s           *sharedSite
	id          uint32
	incarnation uint64
	cmd         *exec.Cmd
	gone        chan struct{}
	conn        net.Conn
	hello       bool
	written     int
	done        map[int]machineWord
	failed      string
}

// until waits for a condition of what is guarded by mu.
func (s *sharedSite) until(what string, is func() bool) {
	s.t.Helper()
	end := time.Now().Add(3 * time.Minute)
	wake := time.AfterFunc(3*time.Minute, s.changed.Broadcast)
	defer wake.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !is() {
		for _, m := range s.machines {
			if m.failed != "" {
				s.t.Fatalf("%s: node %d said: %s", what, m.id, m.failed)
			}
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s: not after 3 minutes; %s; reports %v", what, s.cur, s.reports)
		}
		s.changed.Wait()
	}
}

// boot starts a machine. Its disk is the same as the others'.
func (s *sharedSite) boot(id uint32, incarnation uint64) *sharedMachine {
	s.t.Helper()
	m := &sharedMachine{s: s, id: id, incarnation: incarnation, gone: make(chan struct{}), done: map[int]machineWord{}}
	socket := filepath.Join(s.dir, fmt.Sprintf("n%d-%d", id, incarnation))
	l, err := net.Listen("unix", socket)
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), maxBoot)
	m.cmd = s.g.command(ctx, fmt.Sprintf(" test.member=%d/%d", id, incarnation),
		"-serial", "unix:"+socket,
		"-drive", "if=none,id=d,format=raw,cache=writethrough,file.locking=off,file="+s.disk, "-device", "virtio-blk-pci,drive=d,share-rw=on",
		"-netdev", fmt.Sprintf("socket,id=n,mcast=230.0.0.9:%d,localaddr=127.0.0.1", s.port),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=n,mac=52:54:00:09:00:%02x", id))
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	m.cmd.Stderr = s.t.Output()
	if err := m.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer cancel()
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			line := fmt.Sprintf("n%d: %s", id, strings.TrimRight(lines.Text(), "\r"))
			s.t.Log(line)
			s.mu.Lock()
			s.lines = append(s.lines, line)
			s.changed.Broadcast()
			s.mu.Unlock()
		}
		_ = m.cmd.Wait()
		close(m.gone)
	}()
	s.t.Cleanup(func() { cancel(); <-m.gone })
	if m.conn, err = l.Accept(); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.machines[id] = m
	s.mu.Unlock()
	go m.hear()
	s.until(fmt.Sprintf("node %d boots", id), func() bool { return m.hello })
	return m
}

func (m *sharedMachine) hear() {
	lines := bufio.NewScanner(m.conn)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var w machineWord
		err := json.Unmarshal(lines.Bytes(), &w)
		m.s.mu.Lock()
		switch {
		case err != nil:
			m.failed = fmt.Sprintf("%q: %v", lines.Text(), err)
		case w.Report != nil:
			m.s.reports[m.id] = *w.Report
			for _, o := range m.s.machines {
				if o != m {
					o.say(machineOrder{Report: w.Report})
				}
			}
			m.s.plan()
		case w.Done != 0:
			m.done[w.Done] = w
		case w.Written != 0:
			m.written = w.Written
		case w.Result == "hello":
			m.hello = true
			for _, r := range m.s.reports {
				if r.Member.ID != m.id {
					m.say(machineOrder{Report: &r})
				}
			}
			m.say(machineOrder{Membership: &m.s.cur})
		case w.Err != "":
			m.failed = w.Err
		}
		m.s.changed.Broadcast()
		m.s.mu.Unlock()
	}
}

// say tells a machine something, if it listens: before, its serial port says it back. A machine that is off does not
// hear it.
func (m *sharedMachine) say(o machineOrder) {
	if !m.hello {
		return
	}
	if b, err := json.Marshal(o); err == nil {
		_, _ = m.conn.Write(append(b, '\n'))
	}
}

// plan is the coordinator.
func (s *sharedSite) plan() {
	next, why, ok := shared.Plan(s.cur, slices.Collect(maps.Values(s.reports)), 3, func(m shared.Member) bool { return s.dead[m.Incarnation] })
	if !ok {
		return
	}
	s.t.Logf("%s: %s", next, why)
	s.cur = next
	for _, m := range s.machines {
		m.say(machineOrder{Membership: &next})
	}
}

// order has a machine begin something; the function waits for its end.
func (m *sharedMachine) order(do string) func() string {
	m.s.t.Helper()
	m.s.mu.Lock()
	m.s.ids++
	id := m.s.ids
	m.say(machineOrder{Do: do, ID: id})
	m.s.mu.Unlock()
	return func() string {
		m.s.t.Helper()
		var w machineWord
		m.s.until(fmt.Sprintf("node %d: %s", m.id, do), func() (ok bool) { w, ok = m.done[id]; return ok })
		if w.Err != "" {
			m.s.t.Fatalf("node %d: %s: %s", m.id, do, w.Err)
		}
		return w.Result
	}
}

func (m *sharedMachine) do(what string) string { m.s.t.Helper(); return m.order(what)() }

// kill takes a machine's power away. That its emulator has ended is the proof.
func (m *sharedMachine) kill() {
	_ = m.cmd.Process.Kill()
	<-m.gone
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	delete(m.s.machines, m.id)
	m.s.dead[m.incarnation] = true
	m.s.plan()
}

// more waits until machines have written some more records.
func (s *sharedSite) more(what string, ms ...*sharedMachine) {
	s.t.Helper()
	s.mu.Lock()
	want := map[*sharedMachine]int{}
	for _, m := range ms {
		want[m] = m.written + 20
	}
	s.mu.Unlock()
	s.until(what, func() bool {
		return !slices.ContainsFunc(ms, func(m *sharedMachine) bool { return m.written < want[m] })
	})
}

// since returns the consoles' lines from a number on that have a text.
func (s *sharedSite) since(n int, text string) []string {
	var found []string
	for _, l := range s.lines[n:] {
		if strings.Contains(l, text) {
			found = append(found, l)
		}
	}
	return found
}

// lose takes the power of some machines at once: those that are left replay each journal once, and go on.
func (s *sharedSite) lose(round int, all, victims []*sharedMachine) {
	s.t.Helper()
	var left []*sharedMachine
	for _, m := range all {
		if !slices.Contains(victims, m) {
			left = append(left, m)
			m.do("longest") // from here on
		}
	}
	s.mu.Lock()
	mark := len(s.lines)
	s.mu.Unlock()
	for _, v := range victims {
		v.kill()
	}
	s.more("the others write on", left...)
	s.mu.Lock()
	replayed := s.since(mark, "Replaying journal")
	s.mu.Unlock()
	if len(replayed) != len(victims) {
		s.t.Errorf("round %d: replays of the dead nodes' journals in the logs: got %q, want %d", round, replayed, len(victims))
	}
	for _, m := range left {
		s.t.Logf("round %d: %d lost, longest time for a record on node %d: %s", round, len(victims), m.id, m.do("longest"))
		s.has(m, victims...)
	}
}

// has looks whether a machine reads what others had on the disk for sure.
func (s *sharedSite) has(m *sharedMachine, others ...*sharedMachine) {
	s.t.Helper()
	for _, o := range others {
		s.mu.Lock()
		want := o.written
		s.mu.Unlock()
		if got, err := strconv.Atoi(m.do(fmt.Sprintf("read n%d", o.id))); err != nil || got < want {
			s.t.Errorf("node %d reads %d records of node %d, %v, want %d that were on the disk", m.id, got, o.id, err, want)
		}
	}
}

// TestGFS2Machines has three machines with one disk write to one file system, of which one loses its power: the
// others replay its journal and go on, and nothing that was on the disk for sure is gone. Then it comes back.
func TestGFS2Machines(t *testing.T) {
	if os.Getenv("SKEIN_GFS2_KILLS") == "" {
		t.Skip("three machines that want a quiet host: set SKEIN_GFS2_KILLS to how many rounds of power cuts")
	}
	g := prepare(t, nil, "github.com/skein-os/skein/storage/gfs2", "-test.v", "-test.run=GuestMachine", "-test.timeout=30m")
	dir, err := os.MkdirTemp("", "gfs2") // short: the name of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &sharedSite{
		t: t, g: g, dir: dir, disk: filepath.Join(dir, "disk"), port: freePort(t),
		reports: map[uint32]shared.Report{}, dead: map[uint64]bool{}, machines: map[uint32]*sharedMachine{},
	}
	s.changed = sync.NewCond(&s.mu)
	if err := os.WriteFile(s.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	n1, n2, n3 := s.boot(1, 11), s.boot(2, 12), s.boot(3, 13)
	all := []*sharedMachine{n1, n2, n3}
	n1.do("make")
	for _, wait := range []func() string{n1.order("mount"), n2.order("mount"), n3.order("mount")} {
		wait()
	}
	for _, m := range all {
		t.Logf("node %d: %s", m.id, m.do("status"))
		m.do("write")
	}
	s.more("all write", all...)

	// flock holds across nodes.
	n1.do("lock")
	if got := n2.do("lock"); got != "held" {
		t.Errorf("a lock that node 1 holds: node 2 got %q, want %q", got, "held")
	}
	n1.do("unlock")
	if got := n2.do("lock"); got != "" {
		t.Errorf("a lock that node 1 gave back: node 2 got %q", got)
	}
	n2.do("unlock")

	// Machines lose their power: the third, and if more is asked for, others, and two at once.
	kills, err := strconv.Atoi(os.Getenv("SKEIN_GFS2_KILLS"))
	if err != nil {
		t.Fatalf("SKEIN_GFS2_KILLS: %v", err)
	}
	incarnation := uint64(100)
	for round := range kills {
		victims := []*sharedMachine{all[(round+2)%3]}
		if round%3 == 2 {
			victims = append(victims, all[round%2])
			victims = slices.Compact(victims)
		}
		s.lose(round, all, victims)
		if round%3 == 0 {
			// And again, in the middle of its way back in.
			incarnation++
			v := s.boot(victims[0].id, incarnation)
			v.order("mount")
			s.until("a node is being let in", func() bool {
				return s.cur.Has(shared.Member{ID: v.id, Incarnation: v.incarnation})
			})
			v.kill()
			s.more("the others write on", all[round%3], all[(round+1)%3])
		}
		for _, v := range victims {
			i := slices.Index(all, v)
			incarnation++
			all[i] = s.boot(v.id, incarnation)
			all[i].do("mount")
			all[i].do("write")
		}
		s.more("all write again", all...)
	}

	// An agent ends and another takes over.
	all[0].do("restart agent")
	s.more("all write after a restart of an agent", all...)

	for _, m := range all {
		m.do("enough")
	}
	all[1].do("unmount")
	all[2].do("unmount")
	s.has(all[0], all[1:]...)
	all[0].do("unmount")
	got := all[0].do("check")
	if got == string(shared.Miscounted) { // which the kernel does when a node dies: see storage/gfs2/check.go
		t.Log("fsck at the end: the counters of used space are off, and nothing else")
		if got := all[0].do("repair"); got != string(shared.Repaired) {
			t.Errorf("repair of the counters: got %q, want %q", got, shared.Repaired)
		}
		got = all[0].do("check")
	}
	if got != string(shared.Clean) {
		t.Errorf("fsck at the end: got %q, want %q", got, shared.Clean)
	}
	for _, m := range all {
		s.mu.Lock()
		m.say(machineOrder{Do: "end"})
		s.mu.Unlock()
		<-m.gone
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := len(s.since(0, "--- PASS: TestGuestMachine")); got != 3 {
		t.Errorf("%d machines ended well, want 3", got)
	}
	for _, bad := range []string{"Kernel panic", "Oops:", "BUG:", "withdraw"} {
		for _, l := range s.since(0, bad) {
			t.Error(l)
		}
	}
}

// freePort is a UDP port that nobody uses: the machines' cable.
func freePort(t *testing.T) int {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// TestGFS2Withdraw: GFS2 gives up on its node.
func TestGFS2Withdraw(t *testing.T) {
	console := boot(t, []string{"loop"}, "github.com/skein-os/skein/storage/gfs2", "-test.v", "-test.run=GuestWithdraw", "-test.timeout=90s")
	if !strings.Contains(console, "TestGuestWithdraw passed\n") {
		t.Error("TestGuestWithdraw did not pass in the guest")
	}
}
