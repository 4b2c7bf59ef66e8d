package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/member"
	"github.com/skein-os/skein/agent/network"
	"github.com/skein-os/skein/agent/pid1/control"
	"github.com/skein-os/skein/agent/seed"
)

// Options of the agent. The zero value of a path means its place on a node.
type Options struct {
	RunDir   string // state that outlives the agent but not the boot; /run/skein
	SeedPath string // seed.FwCfgPath
	Version  string
	PID1     *control.Conn
	Log      *slog.Logger
	// Output has what programs print that the agent starts and that outlive it. Nil: it is lost.
	Output *os.File
	// Crash ends the process at once, after a failure of a node that was a member. Cleaning up first could
	// take seconds, in which nobody sends heartbeats and PID 1 cannot know that it must speak for the node.
	// Nil: Run cleans up and returns the error.
	Crash func(error)
}

// Agent is one run of the agent on one node.
type Agent struct {
	opts Options
	log  *slog.Logger
	seed *seed.Seed
	pin  *admission.Pin // what it was told instead of a seed, nil if it has one
	id   identity

	san   *san
	links *network.Links
	hb    *network.Heartbeats
	// beacons are datagrams of the formation, told apart from heartbeats by their first bytes.
	beacons chan []byte
	// screen is what heartbeats pass before they reach the loop; nil until this node is a member.
	screen atomic.Pointer[member.Screen]

	loop *loop
	wg   sync.WaitGroup
	// ordered tells that the agent was asked to end: the machine is being stopped.
	ordered func() bool
	fail    context.CancelCauseFunc // ends the agent, for PID 1 to start a new one

	strandedRounds int // how often in a row no member could admit this machine, and one was alone
}

// Run lives the life of a node until ctx ends (an orderly stop) or something without which the node is
// no use fails. PID 1 starts a new agent after an error.
func Run(ctx context.Context, opts Options) error {
	if opts.RunDir == "" {
		opts.RunDir = "/run/skein"
	}
	if opts.SeedPath == "" {
		opts.SeedPath = seed.FwCfgPath
	}
	outer := ctx
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	a := &Agent{opts: opts, log: opts.Log, beacons: make(chan []byte, 64), loop: newLoop(),
		ordered: func() bool { return outer.Err() != nil }, fail: cancel}
	defer a.wg.Wait()
	defer cancel(nil)

	a.wg.Go(func() {
		// While the node is being set up there is no loop to be well; the phases have deadlines of their own.
		if err := opts.PID1.KeepFeeding(ctx, 500*time.Millisecond, a.loop.well); err != nil {
			cancel(fmt.Errorf("PID 1 is gone: %w", err))
		}
	})
	err := a.run(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (a *Agent) run(ctx context.Context) error {
	if err := os.MkdirAll(a.opts.RunDir, 0o711); err != nil {
		return fmt.Errorf("folder for the agent's state: %w", err)
	}
	if err := network.CalmRuntime(); err != nil {
		a.log.Warn("the agent wakes more often than it needs to", "err", err)
	}
	if err := network.LockMemory(); err != nil {
		a.log.Warn("heartbeats may wait for memory", "err", err)
	}
	var err error
	if err = a.readSeed(); err != nil {
		return err
	}
	if a.id, err = readIdentity(a.opts.RunDir, a.seed.Name); err != nil {
		return err
	}
	if err := a.mayJoin(); err != nil {
		// The machine is on its way down. If it is not, because whoever stopped the agent was not PID 1, a new
		// boot is what helps.
		return errors.Join(err, a.opts.PID1.Reboot(err.Error()))
	}
	if a.id.Witness, err = a.isWitness(); err != nil {
		return err
	}
	if err := setHostname(a.id.Name); err != nil {
		a.log.Warn("host name", "err", err)
	}
	if err := a.openLinks(ctx); err != nil {
		return err
	}
	defer a.links.Close()
	defer a.hb.Close()
	if a.pin == nil { // else its name there is not known yet
		if err := a.openSAN(ctx); err != nil {
			return err
		}
	}
	m, err := a.enter(ctx)
	if err != nil {
		return err
	}
	if a.pin != nil {
		if err := a.openSAN(ctx); err != nil {
			return err
		}
	}
	return a.serve(ctx, m)
}

// isWitness tells what this machine is for, by the kernel's command line or its seed.
func (a *Agent) isWitness() (bool, error) {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return false, fmt.Errorf("read the kernel's command line: %w", err)
	}
	role, err := a.seed.RoleOn(string(cmdline))
	return role == seed.RoleWitness, err
}

// openLinks brings up the ports and the heartbeat sockets on them, and waits for the first one.
func (a *Agent) openLinks(ctx context.Context) error {
	var err error
	a.hb, err = network.OpenHeartbeats(a.log, nil, cluster.PortHeartbeat, a.received)
	if err != nil {
		return err
	}
	a.links, err = network.Watch(ctx, network.Config{Log: a.log, OnChange: a.linksChanged})
	if err != nil {
		a.hb.Close()
		return err
	}
	waiting := time.AfterFunc(2*time.Second, func() {
		for _, c := range a.links.Conditions() {
			a.log.Info(c)
		}
	})
	defer waiting.Stop()
	if _, err := a.links.Wait(ctx); err != nil {
		return fmt.Errorf("no port has an address: %w", err)
	}
	// One port is enough to go on, but a second one that comes at the same time should be in the record
	// that the others first see.
	settle, cancel := context.WithTimeout(ctx, linkSettle)
	defer cancel()
	for len(a.links.Conditions()) > 0 && settle.Err() == nil {
		select {
		case <-settle.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// linkSettle is how long the agent waits for further ports after the first has an address.
const linkSettle = time.Second

// linksChanged follows the ports: sockets at once, the node's record in the ledger when there is one.
func (a *Agent) linksChanged(links []cluster.Link) {
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Name
		a.log.Info("port is up", "port", l.Name, "address", l.Addr, "mac", l.MAC)
	}
	if err := a.hb.SetLinks(names); err != nil {
		a.log.Warn("heartbeats on a port", "err", err)
	}
	a.loop.links(links)
}

// Broadcast sends a beacon on every link (admission.Air).
func (a *Agent) Broadcast(datagram []byte) {
	for _, l := range a.links.List() {
		if err := a.hb.Broadcast(l.Name, datagram); err != nil {
			a.log.Debug("beacon", "port", l.Name, "err", err)
		}
	}
}

// readPID1 passes on what PID 1 tells: which processes ended, and until when the machine lives.
func (a *Agent) readPID1(exited func(pid, code, signal int, at time.Duration), bound func(until time.Duration)) error {
	for {
		e, err := a.opts.PID1.Receive()
		lineErr := (*control.LineError)(nil)
		switch {
		case errors.As(err, &lineErr):
			a.log.Warn("message of PID 1", "err", err)
		case errors.Is(err, io.EOF):
			return errors.New("PID 1 has ended the conversation")
		case err != nil:
			return err
		case e.Op == control.Exit:
			exited(e.PID, e.Code, e.Signal, e.At())
		case e.Op == control.Bound:
			bound(time.Duration(e.UntilMS) * time.Millisecond)
		}
	}
}

func (a *Agent) path(name string) string { return filepath.Join(a.opts.RunDir, name) }
