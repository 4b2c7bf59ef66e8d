package agent

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-os/skein/agent/balance"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/network"
	"github.com/skein-os/skein/agent/node"
)

// tick is how often the brain looks at its clocks.
const tick = 25 * time.Millisecond

// loop is the one goroutine that owns the brain: everything that concerns it is a function run there, in
// turn. It runs with real-time priority, so that a node under load still sends its heartbeats.
type loop struct {
	inputs chan func(*node.Brain)
	beat   atomic.Int64 // when it last went round, CLOCK_BOOTTIME ns; 0: not started

	mu     sync.Mutex
	newest []cluster.Link
	notify func([]cluster.Link) // set when the node has a record to update
}

func newLoop() *loop { return &loop{inputs: make(chan func(*node.Brain), 4096)} }

// post has f run with the brain, some time soon. It never blocks: a loop that is so far behind is not
// well, and PID 1 will find out. It reports whether f was taken.
func (l *loop) post(f func(*node.Brain)) bool {
	select {
	case l.inputs <- f:
		return true
	default:
		return false
	}
}

// must is post for what cannot be lost.
func (l *loop) must(ctx context.Context, f func(*node.Brain)) {
	select {
	case l.inputs <- f:
	case <-ctx.Done():
	}
}

// ask runs f with the brain and waits for it.
func (l *loop) ask(ctx context.Context, f func(*node.Brain)) error {
	done := make(chan struct{})
	l.must(ctx, func(b *node.Brain) { f(b); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// heldUp is from when on a turn of the loop is reported: heartbeats waited for it.
const heldUp = 150 * time.Millisecond

// run drives the brain until ctx ends. If that was ordered, the others are told that this boot ends. If not,
// a new agent will go on, and to say goodbye would give the node up.
func (l *loop) run(ctx context.Context, b *node.Brain, ordered func() bool, warn func(error)) {
	undo, err := network.Urgent()
	if err != nil {
		warn(err)
	}
	defer undo()
	t := time.NewTicker(tick)
	defer t.Stop()
	turned := balance.Now()
	for {
		began := balance.Now()
		l.beat.Store(int64(began))
		var what string
		var woken time.Duration
		select {
		case f := <-l.inputs:
			what, woken = "an input", balance.Now()
			f(b)
		case <-t.C:
			what, woken = "a tick", balance.Now()
			b.Tick()
		case <-ctx.Done():
			if ordered() {
				b.Stop("the node is being stopped")
			}
			return
		}
		if now := balance.Now(); now-turned > heldUp+tick {
			warn(fmt.Errorf("this node's heartbeats were held up for %v: it was woken after %v and %s took %v",
				(now - turned).Round(time.Millisecond), (woken - began).Round(time.Millisecond), what, (now - woken).Round(time.Millisecond)))
		}
		turned = balance.Now()
	}
}

// unwell is how long the loop may not have gone round before the agent says that it is not well.
const unwell = 3 * time.Second

// well tells PID 1 whether the agent does its duty.
func (l *loop) well() bool {
	last := time.Duration(l.beat.Load())
	return last == 0 || balance.Now()-last < unwell
}

func (l *loop) links(links []cluster.Link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = links
	if l.notify != nil {
		l.notify(links)
	}
}

// onLinks has fn called with the ports as they are now and at every change.
func (l *loop) onLinks(fn func([]cluster.Link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notify = fn
	fn(l.newest)
}
