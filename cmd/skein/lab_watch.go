package main

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/scenario"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/probe"
)

const (
	// watchEvery is how fine the timeline is in the lab.
	watchEvery = 250 * time.Millisecond
	// askEvery is between two requests of a client.
	askEvery = 100 * time.Millisecond
	// calm is how long a client must have seen no outage before a step that comes after a settle: what is seen
	// then must be of that step.
	calm = 3 * time.Second
	// leastLabOutage is a gap that is longer than answers vary under emulation on a busy computer (270 ms were
	// seen of a cluster that nothing was done to). A shorter one is no outage in the lab.
	leastLabOutage = 400 * time.Millisecond
	// silentAfter is from when on an address that answered counts as dark.
	silentAfter = time.Second
)

// labWatch looks at a lab during a play, in goroutines that end with it: clients of addresses, the cluster's
// events, who runs what.
type labWatch struct {
	s      *labStage
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu       sync.Mutex
	owners   scenario.Recorder
	machines scenario.Recorder
	events   []scenario.Event
	clients  map[string]*labClientOf // by service
	failed   error                   // of a client that could not ask
}

// labClientOf is what a client of a service's address has seen.
type labClientOf struct {
	last    time.Duration // of the newest answer; 0: none yet
	outages []scenario.Span
}

// watchLab begins after the events that are there now.
func watchLab(ctx context.Context, s *labStage) (*labWatch, error) {
	w := &labWatch{s: s, clients: map[string]*labClientOf{}}
	var after uint64
	if err := s.cluster.Events(ctx, 0, false, func(e cluster.Event) error { after = e.Seq; return nil }); err != nil {
		return nil, err
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.tasks.Go(func() { w.follow(after) })
	w.tasks.Go(w.sample)
	return w, nil
}

func (w *labWatch) end() {
	w.cancel()
	w.tasks.Wait()
}

func (w *labWatch) follow(after uint64) {
	for w.ctx.Err() == nil {
		_ = w.s.cluster.Events(w.ctx, after, true, func(e cluster.Event) error {
			after = e.Seq
			text := e.Text
			if e.Why != "" {
				text += " (" + e.Why + ")"
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			about := e.Node
			if slices.Contains(w.s.nodes, e.Subject) {
				about = e.Subject
			}
			w.events = append(w.events, scenario.Event{At: w.s.Now(), Node: about, Text: text})
			return nil
		}) // the node that is followed may be the one that died: another one goes on from the same place
		_ = w.s.Wait(w.ctx, watchEvery)
	}
}

func (w *labWatch) sample() {
	for w.ctx.Err() == nil {
		if st, err := w.s.lab.State(w.ctx); err == nil {
			var unwell []scenario.Span
			for _, m := range st.Machines {
				if m.State != qemu.Running || m.Clock != "" {
					unwell = append(unwell, scenario.Span{Node: m.Name, What: string(m.State)})
				}
			}
			w.observe(&w.machines, unwell)
		}
		if st, err := w.s.cluster.Status(w.ctx); err == nil {
			var owned []scenario.Span
			for _, v := range st.Services {
				for _, in := range v.Instances {
					span := scenario.Span{Node: in.Node, What: v.Name}
					if v.Stack == scenarioStack && in.State == cluster.InstanceRunning && !slices.Contains(owned, span) {
						owned = append(owned, span)
					}
				}
			}
			w.observe(&w.owners, owned)
		}
		_ = w.s.Wait(w.ctx, watchEvery)
	}
}

func (w *labWatch) observe(r *scenario.Recorder, holds []scenario.Span) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Observe(w.s.Now(), holds)
}

// ask begins to ask an address, once for each service.
func (w *labWatch) ask(service string, a netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.clients[service] != nil {
		return w.failed
	}
	c := &labClientOf{}
	w.clients[service] = c
	w.tasks.Go(func() {
		_, err := probe.Run(w.ctx, probe.Config{URL: "http://" + a.String() + "/", Every: askEvery, Dial: w.s.dial, OnResult: func(r probe.Result) {
			if r.Err != nil {
				return
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			now := w.s.Now()
			if c.last > 0 && now-c.last > leastLabOutage {
				c.outages = append(c.outages, scenario.Span{What: service, From: c.last, To: now})
			}
			c.last = now
		}})
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil && w.ctx.Err() == nil {
			w.failed = err
		}
	})
	return nil
}

// answers tells whether a client had an answer just now.
func (w *labWatch) answers(service string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.clients[service]
	return c != nil && c.last > 0 && w.s.Now()-c.last < silentAfter
}

// steady tells whether a client has had all its answers for a while.
func (w *labWatch) steady(service string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.outages(service)
	return len(all) == 0 || w.s.Now()-all[len(all)-1].To > calm
}

func (w *labWatch) outages(service string) []scenario.Span {
	c := w.clients[service]
	if c == nil {
		return nil
	}
	out := slices.Clone(c.outages)
	if now := w.s.Now(); c.last > 0 && now-c.last > leastLabOutage {
		out = append(out, scenario.Span{What: service, From: c.last, To: now})
	}
	return out
}

// Outages that a client of a service has seen.
func (s *labStage) Outages(_ context.Context, service string) ([]scenario.Span, error) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return s.watch.outages(service), s.watch.failed
}

// Events since the beginning of the play.
func (s *labStage) Events(context.Context) ([]scenario.Event, error) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	return slices.Clone(s.watch.events), nil
}

// Takeovers are counted by their events.
func (s *labStage) Takeovers(ctx context.Context) (int, error) {
	events, err := s.Events(ctx)
	n := 0
	for _, e := range events {
		if strings.Contains(e.Text, " takes over ") {
			n++
		}
	}
	return n, err
}

// History for the timeline.
func (s *labStage) History(context.Context) scenario.History {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	h := scenario.History{Owned: s.watch.owners.Spans(s.Now()), Machines: s.watch.machines.Spans(s.Now())}
	for _, name := range s.order {
		h.Outages = append(h.Outages, s.watch.outages(name)...)
	}
	return h
}
