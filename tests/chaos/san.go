package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/bmc"
	"github.com/skein-os/skein/qemu/daemon"
	"github.com/skein-os/skein/qemu/san"
	"github.com/skein-os/skein/qemu/writers"
	"github.com/skein-os/skein/tests/bank"
)

// What is done to a database on a volume.
const (
	ownerCut      Kind = "owner: power cut"
	ownerFrozen   Kind = "owner: frozen, then switched off by its controller"
	ownerThawed   Kind = "owner: frozen, and thawed when another node has the volume"
	portalCut     Kind = "a portal cut and back"
	portalsCut    Kind = "both portals cut and back"
	targetRestart Kind = "target started anew"
	sanPower      Kind = "SAN: power cut and back"
)

var sanKinds = []weighted{{ownerCut, 30}, {ownerFrozen, 10}, {ownerThawed, 10}, {portalCut, 20}, {portalsCut, 4}, {targetRestart, 8}, {sanPower, 2}}

const (
	bankAddress  = "10.77.9.20"
	bankPassword = "for a test only"
	sanDisks     = 2
)

const bankCompose = `services:
  db:
    image: demo/postgres:1
    environment: {POSTGRES_PASSWORD: "` + bankPassword + `"}
    tmpfs: [/tmp]
    ports: ["5432:5432"]
    stop_grace_period: 10s
    volumes: ["data:/var/lib/postgresql/data"]
    x-skein: {addresses: [` + bankAddress + `]}
volumes:
  data: {driver: skein, name: bank}
`

// sanResult is one step, as a line of san.jsonl.
type sanResult struct {
	Commit  string    `json:"commit"`
	Seed    uint64    `json:"seed"`
	Step    int       `json:"step"`
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	Node    string    `json:"node,omitempty"`
	Moved   bool      `json:"moved"`       // the volume has another owner
	GapMs   float64   `json:"gap_ms"`      // longest time without an acknowledged transaction
	WellMs  float64   `json:"whole_ms"`    // from the fault until all is well
	Acked   int       `json:"acked"`       // transactions, since the start
	Writers int       `json:"two_writers"` // on the wire, since the start
	Load1   float64   `json:"load1"`
	Failure string    `json:"failure,omitempty"`
}

// sanRun breaks a cluster whose database is on a volume of a SAN, and in the end compares the database with what its client
// was told.
type sanRun struct {
	*chaos
	bank    *bank.Bank
	before  int // second writers before the first fault: a disk's self-test writes as two nodes
	summary sanSummary
}

// sanSummary is the last line of a run.
type sanSummary struct {
	Commit     string          `json:"commit"`
	Seed       uint64          `json:"seed"`
	Steps      int             `json:"steps"`
	Failures   int             `json:"failures"`
	Audit      *bank.Audit     `json:"audit"`
	Verdict    writers.Verdict `json:"verdict"`
	TwoWriters int             `json:"two_writers"`
	Judged     uint64          `json:"commands_judged"`
	Unjudged   uint64          `json:"bytes_not_judged"`
}

func (c *chaos) san(ctx context.Context) (err error) {
	s := &sanRun{chaos: c}
	begin := time.Now()
	if err := s.up(ctx); err != nil {
		if c.lab.state != nil {
			c.lab.evidence(filepath.Join(c.lab.dir, "evidence-start"))
		}
		return err
	}
	fmt.Printf("%5.0fs  the database answers; load %.1f\n", time.Since(begin).Seconds(), load1())
	work, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	go func() { s.bank.Run(work); close(done) }()
	r := rand.New(rand.NewPCG(c.lab.seed, 0x5a4))
	for step := range c.steps {
		if ctx.Err() != nil || c.limit > 0 && time.Since(begin) > c.limit {
			break
		}
		res := &sanResult{Commit: c.commit, Seed: c.lab.seed, Step: step, Kind: drawKind(r, sanKinds)}
		err := s.step(ctx, r, res)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			res.Failure = err.Error()
		}
		if err := appendResult(filepath.Join(c.lab.dir, "san.jsonl"), res); err != nil {
			return err
		}
		s.summary.Steps++
		fmt.Printf("%5.0fs  %3d %-55s %-3s gap %6.0f ms, whole after %6.0f ms, %d transactions %s\n", time.Since(begin).Seconds(), step,
			res.Kind, res.Node, res.GapMs, res.WellMs, res.Acked, res.Failure)
		if res.Failure != "" {
			s.summary.Failures++
			c.lab.evidence(filepath.Join(c.lab.dir, fmt.Sprintf("evidence-%d-%d", c.lab.seed, step)))
			if err := s.mendSAN(ctx); err != nil {
				return err
			}
		}
	}
	stop()
	<-done
	return s.end(begin)
}

// up starts the lab with its SAN, a volume and the database on it.
func (s *sanRun) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	l := &s.lab
	if err := l.down(); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(l.labDir(), "san")); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"lab", "up", "--image", l.image, "--nodes", fmt.Sprint(l.nodes), fmt.Sprintf("--san=%d", sanDisks), "--seed", fmt.Sprint(l.seed)},
		{"image", "load", filepath.Join(l.demo, "postgres.tar")},
	} {
		if _, err := l.tool(ctx, args...); err != nil {
			return err
		}
	}
	if err := l.connect(ctx); err != nil {
		return err
	}
	out, err := l.tool(ctx, "disk", "ls", "-o", "json")
	if err != nil {
		return err
	}
	var disks []struct {
		WWN  string `json:"wwn"`
		Size int64  `json:"size_bytes"`
	}
	if err := json.Unmarshal([]byte(out), &disks); err != nil {
		return err
	}
	i := slices.IndexFunc(disks, func(d struct {
		WWN  string `json:"wwn"`
		Size int64  `json:"size_bytes"`
	}) bool {
		return d.Size >= 1<<30
	})
	if i < 0 {
		return fmt.Errorf("no disk of the SAN is seen: %s", out)
	}
	file := filepath.Join(l.dir, "bank.yaml")
	if err := os.WriteFile(file, []byte(bankCompose), 0o600); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"disk", "enrol", disks[i].WWN, "--alias", "bank", "--yes"},
		{"volume", "create", "bank", "--disk", "bank"},
		{"deploy", "-f", file, "bank"},
	} {
		if _, err := l.tool(ctx, args...); err != nil {
			return err
		}
	}
	s.bank = bank.New(bank.Config{Host: bankAddress, Password: bankPassword, Dial: l.dial, Workers: 4})
	if err := s.bank.Open(ctx); err != nil {
		return err
	}
	rep, err := l.daemon.Writers(ctx, []uint64{0})
	if err != nil {
		return err
	}
	s.before = rep.TwoWriters
	_, _, err = l.waitWell(ctx, recoverLimit, calm)
	return err
}

// owner is the node that runs the database.
func owner(st api.Status) string {
	for _, v := range st.Services {
		for _, in := range v.Instances {
			if in.State == "running" {
				return in.Node
			}
		}
	}
	return ""
}

func (s *sanRun) step(ctx context.Context, r *rand.Rand, res *sanResult) error {
	l := &s.lab
	st, _, err := l.waitWell(ctx, recoverLimit, calm)
	if err != nil {
		return err
	}
	if err := s.working(ctx, time.Now(), recoverLimit); err != nil {
		return err
	}
	was := owner(st)
	res.Node, res.Load1 = was, load1()
	if err := sleep(ctx, time.Duration(500+r.IntN(1500))*time.Millisecond); err != nil {
		return err
	}
	at := time.Now()
	res.Time = at.UTC()
	call := func(c daemon.Call) error { return l.daemon.Call(ctx, c) }
	portal := func(n int, up bool) error {
		return call(daemon.Call{Op: daemon.OpLink, Node: san.Machine, Interface: fmt.Sprintf("eth%d", n), Up: up, Silent: !up})
	}
	pause := time.Duration(3+r.IntN(9)) * time.Second
	which := r.IntN(qemu.LANs)
	switch res.Kind {
	case ownerCut:
		err = errors.Join(call(daemon.Call{Op: daemon.OpPowerOff, Node: was}), s.moved(ctx, at), call(daemon.Call{Op: daemon.OpPowerOn, Node: was}))
	case ownerFrozen:
		err = errors.Join(call(daemon.Call{Op: daemon.OpFreeze, Node: was, Clock: qemu.ClockRunning}), s.moved(ctx, at))
	case ownerThawed:
		err = errors.Join(call(daemon.Call{Op: daemon.OpBMC, Node: was, Mode: bmc.Refuse}),
			call(daemon.Call{Op: daemon.OpFreeze, Node: was, Clock: qemu.ClockRunning}), s.moved(ctx, at),
			call(daemon.Call{Op: daemon.OpThaw, Node: was}), call(daemon.Call{Op: daemon.OpBMC, Node: was, Mode: bmc.Ok}))
	case portalCut:
		err = errors.Join(portal(which, false), sleep(ctx, pause), portal(which, true))
	case portalsCut:
		err = errors.Join(portal(0, false), portal(1, false), sleep(ctx, pause), portal(0, true), portal(1, true))
	case targetRestart:
		err = s.order(ctx, san.OpRestart)
	case sanPower:
		err = errors.Join(call(daemon.Call{Op: daemon.OpPowerOff, Node: san.Machine}), call(daemon.Call{Op: daemon.OpPowerOn, Node: san.Machine}))
	}
	if err != nil {
		return err
	}
	if err := sleep(ctx, notice); err != nil {
		return err
	}
	st, since, err := l.waitWell(ctx, recoverLimit, calm)
	if err != nil {
		return err
	}
	if err := s.working(ctx, at, recoverLimit); err != nil {
		return err
	}
	res.Moved = owner(st) != was
	res.WellMs = float64(since.Sub(at).Milliseconds())
	res.GapMs = float64(s.bank.LongestGap(at).Milliseconds())
	_, res.Acked = s.bank.Acknowledged()
	rep, err := l.daemon.Writers(ctx, []uint64{0})
	if err != nil {
		return err
	}
	res.Writers = rep.TwoWriters - s.before
	if res.Writers > 0 {
		return fmt.Errorf("%d writes by a second writer", res.Writers)
	}
	return nil
}

// order gives the SAN machine an order.
func (s *sanRun) order(ctx context.Context, what san.Op) error {
	if err := s.lab.daemon.Call(ctx, daemon.Call{Op: daemon.OpSAN, Order: &san.Order{Op: what, LUN: -1}}); err != nil {
		return fmt.Errorf("order %q to the SAN: %w", what, err)
	}
	return nil
}

// working waits for a transaction that was acknowledged after from.
func (s *sanRun) working(ctx context.Context, from time.Time, limit time.Duration) error {
	end := time.Now().Add(limit)
	for {
		last, _ := s.bank.Acknowledged()
		if last.After(from) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no transaction was acknowledged for %v", time.Since(last).Round(time.Second))
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// moved waits until the database works after a fault that took its node away.
func (s *sanRun) moved(ctx context.Context, at time.Time) error {
	if err := sleep(ctx, time.Second-time.Since(at)); err != nil { // what was on its way is acknowledged by then
		return err
	}
	return s.working(ctx, time.Now(), recoverLimit)
}

// mendSAN undoes all faults.
func (s *sanRun) mendSAN(ctx context.Context) error {
	st, err := s.lab.daemon.State(ctx)
	if err != nil {
		return err
	}
	for _, m := range st.Machines {
		_ = s.lab.daemon.Call(ctx, daemon.Call{Op: daemon.OpBMC, Node: m.Name, Mode: bmc.Ok})
	}
	if st.SAN != nil && st.SAN.State == qemu.Off {
		_ = s.lab.daemon.Call(ctx, daemon.Call{Op: daemon.OpPowerOn, Node: san.Machine})
	}
	for n := range qemu.LANs {
		_ = s.lab.daemon.Call(ctx, daemon.Call{Op: daemon.OpLink, Node: san.Machine, Interface: fmt.Sprintf("eth%d", n), Up: true})
	}
	if err := s.lab.mend(ctx); err != nil {
		return err
	}
	_, _, err = s.lab.waitWell(ctx, recoverLimit, calm)
	return err
}

// end compares the database with what was acknowledged, and asks the judge on the wire.
func (s *sanRun) end(begin time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	s.summary.Commit, s.summary.Seed = s.commit, s.lab.seed
	var err error
	if s.summary.Audit, err = s.bank.Audit(ctx); err != nil {
		s.lab.evidence(filepath.Join(s.lab.dir, "evidence-end"))
		return fmt.Errorf("the database could not be read in the end: %w", err)
	}
	rep, err := s.lab.daemon.Writers(ctx, []uint64{0})
	if err != nil {
		return err
	}
	s.summary.Verdict, s.summary.TwoWriters, s.summary.Judged, s.summary.Unjudged = rep.Verdict, rep.TwoWriters-s.before, rep.Judged, rep.Unjudged
	if err := appendResult(filepath.Join(s.lab.dir, "san-summary.jsonl"), s.summary); err != nil {
		return err
	}
	a := s.summary.Audit
	fmt.Printf("%5.0fs  %d steps, %d failed; %d transactions acknowledged, %d without an answer, %d missing, %d balances wrong, %d checksum failures; %d second writers in %d commands\n",
		time.Since(begin).Seconds(), s.summary.Steps, s.summary.Failures, a.Acknowledged, a.Unknown, len(a.Missing), len(a.Wrong), a.Checksums,
		s.summary.TwoWriters, s.summary.Judged)
	switch {
	case !a.Sound():
		return fmt.Errorf("the database has lost something: %s %s", strings.Join(a.Missing, ", "), strings.Join(a.Wrong, ", "))
	case s.summary.TwoWriters > 0 || s.summary.Judged == 0:
		return fmt.Errorf("judge on the wire: %d second writers in %d commands", s.summary.TwoWriters, s.summary.Judged)
	case s.summary.Failures > 0:
		return fmt.Errorf("%d steps did not end well", s.summary.Failures)
	}
	return nil
}
