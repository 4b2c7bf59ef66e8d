package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/qemu/daemon"
	"github.com/skein-os/skein/qemu/owners"
)

const (
	// calm is how long the cluster must have been well before the next fault.
	calm = time.Second
	// recover is how long the cluster may take until it is well again, else the step has failed. A machine is
	// fenced, boots and becomes a voter in some 20 s under emulation.
	recoverLimit = 3 * time.Minute
	// notice is how long after the end of a fault the cluster's word that all is well counts for nothing: it may
	// not have noticed yet.
	notice = 1500 * time.Millisecond
	// slowEvery is the pause of the client while the cluster makes itself whole.
	slowEvery = 200 * time.Millisecond
	// before is how long the client asks before the fault.
	before = 700 * time.Millisecond
)

type chaos struct {
	lab      lab
	out      string
	services int
	steps    int
	first    int
	limit    time.Duration
	every    time.Duration
	loss     float64
	jitter   time.Duration
	onSAN    bool
	commit   string

	violations int    // on the wire that were written down
	seq        uint64 // of the newest event of the cluster that was looked at
}

// play does the steps. A failed one is written down like the others; only a lab that cannot be had back ends the run.
func (c *chaos) play(ctx context.Context) error {
	begin := time.Now()
	if err := c.start(ctx); err != nil {
		return err
	}
	fmt.Printf("%5.0fs  the lab is up; load %.1f\n", time.Since(begin).Seconds(), load1())
	bad := 0
	for step := c.first; step < c.first+c.steps && ctx.Err() == nil; step++ {
		if c.limit > 0 && time.Since(begin) > c.limit {
			fmt.Printf("%5.0fs  the time is up after %d steps\n", time.Since(begin).Seconds(), step-c.first)
			break
		}
		r, err := c.step(ctx, step)
		if ctx.Err() != nil {
			break // cut short: says nothing
		}
		if err != nil {
			r.Failure = err.Error()
		}
		if err := appendResult(filepath.Join(c.lab.dir, "results.jsonl"), r); err != nil {
			return err
		}
		fmt.Printf("%5.0fs  %s\n", time.Since(begin).Seconds(), r.line())
		if r.bad() {
			bad++
			c.lab.evidence(filepath.Join(c.lab.dir, fmt.Sprintf("evidence-%d-%d", r.Seed, step)))
		}
		if err != nil {
			if err := c.rescue(ctx); err != nil {
				return fmt.Errorf("after step %d: %w", step, err)
			}
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d steps were not as they must be: see results.jsonl and the evidence beside it", bad)
	}
	return ctx.Err()
}

// start brings the lab up and waits until the cluster is well.
func (c *chaos) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := c.lab.up(ctx, c.services); err != nil {
		return err
	}
	if _, _, err := c.lab.waitWell(ctx, 5*time.Minute, calm); err != nil {
		return err
	}
	c.seq, c.violations = 0, 0
	_, err := c.losses(ctx)
	return err
}

// rescue has a cluster that is well, the same one if that can be.
func (c *chaos) rescue(ctx context.Context) error {
	if err := c.lab.mend(ctx); err == nil {
		if _, _, err := c.lab.waitWell(ctx, recoverLimit, calm); err == nil {
			_, err = c.losses(ctx)
			return err
		}
	}
	fmt.Println("the cluster does not recover: a new lab")
	// The consoles of the old one stay beside the evidence; the timeline begins anew.
	_ = c.lab.down()
	if err := os.Rename(c.lab.labDir(), fmt.Sprintf("%s-%d", c.lab.labDir(), time.Now().Unix())); err != nil {
		return err
	}
	return c.start(ctx)
}

// step does one fault or two and waits until all is well.
func (c *chaos) step(ctx context.Context, step int) (*Result, error) {
	chance := rand.New(rand.NewPCG(c.lab.seed, uint64(step)))
	r := &Result{Commit: c.commit, Seed: c.lab.seed, Step: step, Time: time.Now().UTC(), Nodes: c.lab.nodes,
		Accel: string(c.lab.state.Accel.Kind), CPUs: runtime.NumCPU(), Load1: load1()}
	pause := time.Duration(chance.IntN(1500)) * time.Millisecond
	st, _, err := c.lab.waitWell(ctx, recoverLimit, calm+pause)
	if err != nil {
		return r, fmt.Errorf("before the fault: %w", err)
	}
	seen, err := c.lab.daemon.Owners(ctx)
	if err != nil {
		return r, err
	}
	roles := rolesOf(st, seen)
	r.Kind, r.Faults = draw(chance, roles)
	if r.Faults[0].Node == "" {
		return r, errors.New("no node may be taken: the ledger has no three voters")
	}
	usedBefore := c.usage(ctx)

	watch := c.watch(ctx, addresses(c.services))
	defer watch.end()
	if err := sleep(ctx, before); err != nil {
		return r, err
	}
	at := time.Now()
	if err := c.inflict(ctx, r.Faults, watch, at); err != nil {
		return r, err
	}
	if err := sleep(ctx, notice); err != nil {
		return r, err
	}
	// What the fault did to clients is over when all have been answered for a while. From here on the machine that
	// boots is disturbed less.
	watch.answered(ctx, time.Now(), 10*time.Second)
	if err := watch.slow(ctx, slowEvery); err != nil {
		return r, err
	}
	st, since, err := c.lab.waitWell(ctx, recoverLimit, calm)
	if err == nil {
		r.HealthyMs = float64(since.Sub(at).Milliseconds())
	}
	r.Addresses = watch.end()
	r.Others = others(usedBefore, c.usage(ctx), r.CPUs)
	if err != nil {
		return r, err
	}
	return r, c.judge(ctx, r, st, seen)
}

// inflict does the faults and ends them.
func (c *chaos) inflict(ctx context.Context, faults []Fault, w *watch, at time.Time) error {
	for _, f := range faults {
		if err := sleep(ctx, time.Until(at.Add(f.After))); err != nil {
			return err
		}
		if err := c.lab.begin(ctx, f); err != nil {
			return fmt.Errorf("%s of %s: %w", f.Kind, f.Node, err)
		}
	}
	for _, f := range faults {
		if f.Kind == PowerCut {
			// On again when the others have its work, or the boot would compete with the takeover for the same few
			// processors. A client that is never answered again is waited for no longer.
			w.answered(ctx, at, 10*time.Second)
		}
		if err := sleep(ctx, time.Until(at.Add(f.After+f.Hold))); err != nil {
			return err
		}
		if err := c.lab.end(ctx, f); err != nil {
			return fmt.Errorf("end of %s of %s: %w", f.Kind, f.Node, err)
		}
	}
	return nil
}

// judge fills in what the wire and the ledger have to say about a step.
func (c *chaos) judge(ctx context.Context, r *Result, st api.Status, seen *owners.Report) error {
	now, err := c.lab.daemon.Owners(ctx)
	if err != nil {
		return err
	}
	for now.Pending > 0 { // a machine that came back has some seconds to say so
		if err := sleep(ctx, 300*time.Millisecond); err != nil {
			return err
		}
		if now, err = c.lab.daemon.Owners(ctx); err != nil {
			return err
		}
	}
	r.Violations = now.Violations[min(c.violations, len(now.Violations)):]
	c.violations = len(now.Violations)
	for i := range r.Addresses {
		a := &r.Addresses[i]
		was, is := addressOf(seen, a.Address), addressOf(now, a.Address)
		a.Before, a.After = was.Owner, is.Owner
		a.Hit = slices.ContainsFunc(r.Faults, func(f Fault) bool { return f.Kind.takesNode() && f.Node == a.Before })
		for _, h := range is.Handovers[min(len(was.Handovers), len(is.Handovers)):] {
			a.Handovers++
			a.DarkMs = append(a.DarkMs, h.DarkMs)
		}
		if claimed := ownerOf(st, a.Address); claimed != a.After {
			r.Disagree = append(r.Disagree, fmt.Sprintf("%s: the ledger says %s, on the wire it is %s", a.Address, claimed, a.After))
		}
	}
	if r.Lost, err = c.losses(ctx); err != nil {
		return err
	}
	r.False = falseLosses(r.Lost, r.Faults)
	return nil
}

// falseLosses are those that no fault explains. A fault costs a node its place once: one that is lost again when it is
// back had nothing by then.
func falseLosses(lost []string, faults []Fault) (list []string) {
	explained := map[string]bool{}
	for _, f := range faults {
		explained[f.Node] = f.Kind.takesNode()
	}
	for _, n := range lost {
		if !explained[n] {
			list = append(list, n)
		}
		explained[n] = false
	}
	return list
}

// losses are the nodes that were declared lost since the last question.
func (c *chaos) losses(ctx context.Context) (lost []string, err error) {
	for range 5 { // the node that is asked may be changing its connections
		after := c.seq
		lost = nil
		err = c.lab.api.Events(ctx, after, false, func(e cluster.Event) error {
			after = max(after, e.Seq)
			if e.Kind == cluster.EventNode && e.Text == e.Subject+" is lost" {
				lost = append(lost, e.Subject)
			}
			return nil
		})
		if err == nil {
			c.seq = after
			return lost, nil
		}
		if err := sleep(ctx, 300*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("events of the cluster: %w", err)
}

func (c *chaos) usage(ctx context.Context) usage {
	var pids []int
	if st, err := c.lab.daemon.State(ctx); err == nil {
		for _, m := range st.Machines {
			if m.PID != 0 {
				pids = append(pids, m.PID)
			}
		}
	}
	return measureUsage(c.lab.state.PID, pids)
}

func rolesOf(st api.Status, seen *owners.Report) Roles {
	roles := Roles{Coordinator: st.Coordinator, Owns: map[string][]string{}}
	for _, n := range st.Nodes {
		roles.Nodes = append(roles.Nodes, n.Name)
		if n.Voter {
			roles.Voters = append(roles.Voters, n.Name)
		}
	}
	slices.Sort(roles.Nodes)
	slices.Sort(roles.Voters)
	for _, a := range seen.Addresses {
		roles.Owns[a.Owner] = append(roles.Owns[a.Owner], a.Address.String())
	}
	return roles
}

func addressOf(r *owners.Report, addr string) owners.Address {
	for _, a := range r.Addresses {
		if a.Address.String() == addr {
			return a
		}
	}
	return owners.Address{}
}

// ownerOf is the node that the ledger has for an address.
func ownerOf(st api.Status, addr string) string {
	for _, s := range st.Services {
		if !slices.Contains(s.Addresses, addr+":80") {
			continue
		}
		for _, in := range s.Instances {
			if in.State == cluster.InstanceRunning {
				return in.Node
			}
		}
	}
	return ""
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// calm lets the cluster bear bad networks without any fault.
func (c *chaos) calm(ctx context.Context) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	r := &Result{Commit: c.commit, Seed: c.lab.seed, Time: time.Now().UTC(), Nodes: c.lab.nodes, Accel: string(c.lab.state.Accel.Kind),
		CPUs: runtime.NumCPU(), Load1: load1(), LossPercent: c.loss, JitterMs: float64(c.jitter) / float64(time.Millisecond)}
	if _, _, err := c.lab.waitWell(ctx, recoverLimit, calm); err != nil {
		return err
	}
	seen, err := c.lab.daemon.Owners(ctx)
	if err != nil {
		return err
	}
	usedBefore, at := c.usage(ctx), time.Now()
	if err := c.lab.daemon.Call(ctx, daemon.Call{Op: daemon.OpImpair, Loss: c.loss / 100, Delay: c.jitter, Jitter: c.jitter}); err != nil {
		return err
	}
	watch := c.watch(ctx, addresses(c.services))
	defer watch.end()
	_ = sleep(ctx, c.limit) // an interrupted one counts for as long as it went on
	r.Calm = time.Since(at)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	r.Addresses = watch.end()
	if err := c.lab.daemon.Call(ctx, daemon.Call{Op: daemon.OpHeal}); err != nil {
		return err
	}
	st, since, err := c.lab.waitWell(ctx, recoverLimit, calm)
	if err == nil {
		r.HealthyMs = float64(since.Sub(at.Add(r.Calm)).Milliseconds())
	}
	r.Others = others(usedBefore, c.usage(ctx), r.CPUs)
	if err == nil {
		err = c.judge(ctx, r, st, seen)
	}
	if err != nil {
		r.Failure = err.Error()
	}
	if err := appendResult(filepath.Join(c.lab.dir, "results.jsonl"), r); err != nil {
		return err
	}
	fmt.Println(r.line())
	if r.bad() {
		c.lab.evidence(filepath.Join(c.lab.dir, fmt.Sprintf("evidence-loss-%d", r.Seed)))
		return errors.New("not as it must be: see results.jsonl and the evidence beside it")
	}
	return nil
}
