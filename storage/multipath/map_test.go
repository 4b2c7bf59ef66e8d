package multipath

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a kernel of maps that does nothing.
type memory struct {
	mu    sync.Mutex
	live  *Live
	log   []string
	drain chan struct{} // what is under way: Drain waits for its end
}

func (k *memory) Find(string) (*Live, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live, nil
}

func (k *memory) Load(_ string, t Table) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	opens := 0
	if k.live != nil {
		opens = k.live.Opens
	}
	k.live = &Live{Table: t, Device: "/dev/dm-0", Opens: opens}
	for _, g := range t.Groups {
		var s GroupStatus
		for _, d := range g.Paths {
			s.Paths = append(s.Paths, PathStatus{Dev: d, Active: true})
		}
		k.live.Status.Groups = append(k.live.Status.Groups, s)
	}
	return "/dev/dm-0", nil
}

func (k *memory) Status(string) (Status, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live.Status, nil
}

func (k *memory) Message(_, text string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.log = append(k.log, text)
	verb, dev, _ := strings.Cut(text, " ")
	for _, g := range k.live.Status.Groups {
		for i := range g.Paths {
			if g.Paths[i].Dev == dev {
				g.Paths[i].Active = verb == "reinstate_path"
			}
		}
	}
	return nil
}

func (k *memory) Drain(wwn string, sectors uint64) error {
	<-k.drain
	_, err := k.Load(wwn, Table{Sectors: sectors})
	return err
}

func (k *memory) Remove(string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.live = nil
	return nil
}

// hanging is a prober; checks of hung paths do not end before release does.
type hanging struct {
	mu      sync.Mutex
	hung    map[string]bool
	release chan struct{}
	running map[string]int
	most    int
}

func (p *hanging) Probe(_ context.Context, dev string) Probe {
	p.mu.Lock()
	p.running[dev]++
	p.most = max(p.most, p.running[dev])
	hung := p.hung[dev]
	p.mu.Unlock()
	if hung {
		<-p.release
	}
	p.mu.Lock()
	p.running[dev]--
	p.mu.Unlock()
	return good(dev, time.Time{})
}

func stateOf(m *Map, dev string) PathState {
	for _, p := range m.State().Paths {
		if p.Dev == dev {
			return p.State
		}
	}
	return ""
}

// TestMapHungCheck: a path whose check hangs fails, is checked once and not again and again, and the others go on.
func TestMapHungCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &memory{}
		p := &hanging{hung: map[string]bool{}, release: make(chan struct{}), running: map[string]int{}}
		m, err := Start(Config{WWN: testWWN, Kernel: k, Prober: p}, "8:0", "8:16")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		time.Sleep(2 * time.Minute)
		if stateOf(m, "8:0") != Up || stateOf(m, "8:16") != Up {
			t.Fatalf("got %+v", m.State())
		}
		p.mu.Lock()
		p.hung["8:0"] = true
		p.mu.Unlock()
		time.Sleep(5 * time.Second) // until the next check, and its deadline
		if got := stateOf(m, "8:0"); got != Failed {
			t.Errorf("a path whose check hangs: got %q, want %q", got, Failed)
		}
		time.Sleep(time.Minute)
		if got := stateOf(m, "8:16"); got != Up || p.most != 1 {
			t.Errorf("the other: got %q with %d checks of one path at once, want %q and 1", got, p.most, Up)
		}
		if err := m.LinkDown("8:16", "wire B is down"); err != nil || !m.State().Queueing {
			t.Errorf("no path: got %v, %+v", err, m.State())
		}
		p.mu.Lock()
		p.hung["8:0"] = false
		p.mu.Unlock()
		close(p.release)
		time.Sleep(time.Minute)
		if stateOf(m, "8:0") != Up || stateOf(m, "8:16") != Up || m.State().Queueing {
			t.Errorf("all is well: got %+v", m.State())
		}
	})
}

// TestMapClose: a claim ends while an admission and a command are under way. Nothing is drained before both have ended.
func TestMapClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &memory{drain: make(chan struct{})}
		p := &hanging{running: map[string]int{}}
		hold, slow := make(chan struct{}), false
		var mu sync.Mutex
		admit := func(_ context.Context, dev string) error {
			mu.Lock()
			wait := slow && dev == "8:16"
			mu.Unlock()
			if wait {
				<-hold // it does not even heed its context
			}
			return nil
		}
		m, err := Start(Config{WWN: testWWN, Kernel: k, Prober: p, Admit: admit}, "8:0")
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		time.Sleep(2 * time.Second)
		mu.Lock()
		slow = true
		mu.Unlock()
		if err := m.SetPaths("8:0", "8:16"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if got := stateOf(m, "8:16"); got != Admitting {
			t.Fatalf("got %q", got)
		}
		if err := m.Drain(t.Context()); err == nil {
			t.Error("drained a map that takes I/O")
		}
		if err := m.FailQueue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := []string{"fail_if_no_path", "fail_path 8:0"}; !slices.Equal(k.log, want) {
			t.Errorf("got %q, want %q", k.log, want)
		}
		short := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return m.Drain(ctx)
		}
		if err := short(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "admission") {
			t.Errorf("with an admission under way: got %v", err)
		}
		close(hold)
		if err := short(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "commands") {
			t.Errorf("with a command under way: got %v", err)
		}
		if err := m.Open(); err == nil {
			t.Error("opened with a command under way")
		}
		close(k.drain)
		if err := short(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if s := m.State(); !s.Closed || countUp(s) != 0 || len(k.live.Table.Groups) != 0 {
			t.Errorf("closed: got %+v", s)
		}
		k.live.Opens = 1
		if err := m.Open(); !errors.Is(err, ErrOpen) {
			t.Errorf("in use: got %v, want %v", err, ErrOpen)
		}
		k.live.Opens = 0
		if err := m.Open(); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		if s := m.State(); countUp(s) != 2 {
			t.Errorf("opened: got %+v", s)
		}
	})
}
