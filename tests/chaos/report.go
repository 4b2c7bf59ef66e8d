package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Aims under emulation, milliseconds.
const (
	aimP50 = 1200
	aimMax = 2000
)

// figures of one kind of fault.
type figures struct {
	kind   Kind
	steps  int
	hit    []float64 // outages of addresses whose node had the fault, sorted
	others []float64 // of the other addresses, sorted
}

// summary of results.
type summary struct {
	kinds      []figures // in the order of kinds, those that came
	all        figures
	steps      int
	failed     []string
	lost       int
	falses     []string
	violations []string
	disagree   []string
	handovers  int
	dark       []float64 // of handovers, sorted
	healthy    []float64 // milliseconds, sorted
	load       []float64 // sorted
	othersUse  []float64 // sorted
	commits    []string
	seeds      []string
	nodes      []string
	accels     []string
	cpus       []string
	from, to   time.Time
	calm       []Result
}

func summarise(results []Result) summary {
	s := summary{all: figures{kind: "all"}}
	byKind := map[Kind]*figures{}
	addOnce := func(list *[]string, v string) {
		if !slices.Contains(*list, v) {
			*list = append(*list, v)
		}
	}
	for _, r := range results {
		name := fmt.Sprintf("seed %d, step %d (%s of %s)", r.Seed, r.Step, r.Kind, nodesOf(r.Faults))
		if r.Calm > 0 {
			s.calm = append(s.calm, r)
			name = fmt.Sprintf("seed %d, %s without faults", r.Seed, r.Calm.Round(time.Second))
		}
		for _, v := range r.Violations {
			s.violations = append(s.violations, fmt.Sprintf("%s: %s of %s over %s for %s, %.1f ms late (%s)", name, v.Fault, v.Node, v.Owner, v.Address, v.LateMs, v.By))
		}
		for _, n := range r.False {
			s.falses = append(s.falses, name+": "+n)
		}
		for _, d := range r.Disagree {
			s.disagree = append(s.disagree, name+": "+d)
		}
		if r.Failure != "" {
			s.failed = append(s.failed, name+": "+r.Failure)
		}
		addOnce(&s.commits, r.Commit)
		addOnce(&s.nodes, fmt.Sprint(r.Nodes))
		addOnce(&s.accels, r.Accel)
		addOnce(&s.cpus, fmt.Sprint(r.CPUs))
		addOnce(&s.seeds, fmt.Sprint(r.Seed))
		if s.from.IsZero() || r.Time.Before(s.from) {
			s.from = r.Time
		}
		if r.Time.After(s.to) {
			s.to = r.Time
		}
		for _, a := range r.Addresses {
			s.handovers += a.Handovers
			s.dark = append(s.dark, a.DarkMs...)
		}
		if r.Calm > 0 {
			continue
		}
		s.steps++
		s.lost += len(r.Lost)
		s.load = append(s.load, r.Load1)
		s.othersUse = append(s.othersUse, r.Others)
		f := byKind[r.Kind]
		if f == nil {
			f = &figures{kind: r.Kind}
			byKind[r.Kind] = f
		}
		f.steps++
		s.all.steps++
		if r.Failure == "" {
			s.healthy = append(s.healthy, r.HealthyMs)
		}
		for _, a := range r.Addresses {
			if a.Before == "" {
				continue // the step ended before the wire was asked
			}
			if a.Hit {
				f.hit, s.all.hit = append(f.hit, a.OutageMs), append(s.all.hit, a.OutageMs)
			} else {
				f.others, s.all.others = append(f.others, a.OutageMs), append(s.all.others, a.OutageMs)
			}
		}
	}
	for _, k := range kinds {
		if f := byKind[k.kind]; f != nil {
			s.kinds = append(s.kinds, *f)
		}
	}
	for _, list := range [][]float64{s.all.hit, s.all.others, s.dark, s.healthy, s.load, s.othersUse} {
		slices.Sort(list)
	}
	for _, f := range s.kinds {
		slices.Sort(f.hit)
		slices.Sort(f.others)
	}
	return s
}

func nodesOf(faults []Fault) string {
	var names []string
	for _, f := range faults {
		names = append(names, f.Node)
	}
	return strings.Join(names, " and ")
}

// percentile by nearest rank: the smallest value that p percent of the values do not exceed.
func percentile(sorted []float64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max((len(sorted)*p+99)/100, 1)-1]
}

func largest(sorted []float64) float64 { return percentile(sorted, 100) }

func share(sorted []float64, atMost float64) float64 {
	n := 0
	for _, v := range sorted {
		if v <= atMost {
			n++
		}
	}
	return float64(n) / float64(max(len(sorted), 1))
}

// writeReport makes the page and its picture.
func writeReport(page string, files []string) error {
	if len(files) == 0 {
		return errors.New("-report: give the results.jsonl files after it")
	}
	results, err := readResults(files)
	if err != nil {
		return err
	}
	if len(results) == 0 {
		return errors.New("-report: the files hold no results")
	}
	s := summarise(results)
	svg := strings.TrimSuffix(page, filepath.Ext(page)) + ".svg"
	if err := os.WriteFile(svg, picture(s), 0o644); err != nil {
		return err
	}
	return os.WriteFile(page, []byte(markdown(s, filepath.Base(svg))), 0o644)
}

func markdown(s summary, svg string) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Outage: what a client sees when machines fail\n")
	p("Made by `go run ./tests/chaos -report docs/outage.md RESULTS...`; do not edit. `make chaos` plays the faults.\n")
	if s.steps > 0 {
		p("%d random faults in the lab, one after the other, fencing on. %s\n", s.steps, verdict(s))
		p("![outage by kind of fault](%s)\n", svg)
		p("| fault | faults | addresses hit | p50 ms | p90 ms | p99 ms | max ms | addresses not hit | their max ms |")
		p("|---|---|---|---|---|---|---|---|---|")
		for _, f := range append(slices.Clone(s.kinds), s.all) {
			row(&b, f)
		}
		p("\nAims under emulation: p50 under %d ms, max under %d ms. Of the outages of addresses that were hit, %.1f %% were at most %d ms.",
			aimP50, aimMax, 100*share(s.all.hit, aimMax), aimMax)
		p("The same work on Pacemaker, power cut, in the same kind of machine: 19.0 s (13.2 s tuned).\n")
	}
	p("## What must never be\n")
	p("| | count |")
	p("|---|---|")
	p("| double owners, seen on the wire | %d |", len(s.violations))
	p("| addresses for which the ledger and the wire named different owners when all was well again | %d |", len(s.disagree))
	p("| nodes declared lost that had no fault, or lost again when it was over (false takeovers), of %d declared lost | %d |", s.lost, len(s.falses))
	p("| faults after which the cluster was not well within %s | %d |", recoverLimit, len(s.failed))
	for _, list := range [][]string{s.violations, s.disagree, s.falses, s.failed} {
		for _, x := range list {
			p("\n- %s", strings.ReplaceAll(x, "\n", " "))
		}
	}
	if len(s.dark) > 0 {
		p("\nOn the wire there were %d handovers of addresses. Between the last frame of the old owner and the first of the new one lay %.0f ms at least, %.0f ms in the middle, %.0f ms at most: the closest that two owners ever came.",
			s.handovers, s.dark[0], percentile(s.dark, 50), largest(s.dark))
	}
	if len(s.calm) > 0 {
		p("\n## Bad networks, no fault\n")
		p("Every frame that a machine sends is lost with the given chance and late by 0 to twice the jitter, on both links.\n")
		p("| loss | jitter | for | nodes | declared lost (all false) | double owners | longest gap, client | load |")
		p("|---|---|---|---|---|---|---|---|")
		for _, r := range s.calm {
			gap := 0.0
			for _, a := range r.Addresses {
				gap = max(gap, a.OutageMs)
			}
			p("| %g %% | %g ms | %s | %d | %d | %d | %.0f ms | %.1f |", r.LossPercent, r.JitterMs, r.Calm.Round(time.Second), r.Nodes, len(r.Lost), len(r.Violations), gap, r.Load1)
		}
	}
	p("\n## How it is measured\n")
	p("- The lab: %s machines with one processor each (%s), on a host with %s processors that they share with the client, the switches and the probe. Commits %s, seeds %s, %s to %s.",
		strings.Join(s.nodes, " or "), strings.Join(s.accels, ", "), strings.Join(s.cpus, " or "), strings.Join(s.commits, ", "), strings.Join(s.seeds, ", "),
		s.from.UTC().Format("2006-01-02 15:04"), s.to.UTC().Format("2006-01-02 15:04 MST"))
	if len(s.load) > 0 {
		p("- The host's load average when the faults came: median %.1f, max %.1f, the lab's own machines included. Programs that have nothing to do with the lab used %.0f %% of the host's processors in the median step and %.0f %% in the worst.",
			percentile(s.load, 50), largest(s.load), 100*percentile(s.othersUse, 50), 100*largest(s.othersUse))
	}
	p("- A client outside asks each address by HTTP every 50 ms (as `skein lab probe`), each time on a new connection, from before the fault until the cluster is whole again. The outage is the longest time between two answers in all of that, so it has the pause of 50 ms and the time of an answer in it, and what the return of the machine costs, too. An address is hit when the fault was on the node that answered for it.")
	p("- When all addresses have been answered after the fault, the client goes on at one request in 200 ms until the cluster is whole: gaps of more than 400 ms then count like any other.")
	p("- A stall of less than the lease is a fault as well: a small outage of an address that was hit may be one where nothing was moved.")
	p("- The next fault comes when every node is online and votes, every service runs and that has been so for a second or two.%s",
		optional(len(s.healthy) > 0, func() string {
			return fmt.Sprintf(" From the fault to that it took %.0f s in the middle and %.0f s at most: a fenced machine boots under emulation meanwhile.", percentile(s.healthy, 50)/1000, largest(s.healthy)/1000)
		}))
	p("- The judge on the wire is `qemu/owners`: it sees every frame that a machine sends into the lab's two switches, before faults and partitions take it, and hears no agent. What it calls a double owner is in its package comment. It sees addresses, not disks: no volume is in this test.")
	p("- A power cut machine is switched on again when the others have answered for it. A frozen, partitioned, mute or deaf one is switched off by the others through its power controller, and on again.")
	return b.String()
}

func optional(is bool, text func() string) string {
	if !is {
		return ""
	}
	return text()
}

func verdict(s summary) string {
	if len(s.all.hit) == 0 {
		return "No address was hit."
	}
	met := func(is bool) string {
		if is {
			return "met"
		}
		return "missed"
	}
	return fmt.Sprintf("Outage of the addresses that were hit: p50 %.0f ms (aim %s), p99 %.0f ms, max %.0f ms (aim %s). Double owners: %d. False takeovers: %d.",
		percentile(s.all.hit, 50), met(percentile(s.all.hit, 50) < aimP50), percentile(s.all.hit, 99), largest(s.all.hit), met(largest(s.all.hit) < aimMax), len(s.violations), len(s.falses))
}

func row(b *strings.Builder, f figures) {
	at := func(list []float64, p int) string {
		if len(list) == 0 {
			return "-"
		}
		return fmt.Sprintf("%.0f", percentile(list, p))
	}
	fmt.Fprintf(b, "| %s | %d | %d | %s | %s | %s | %s | %d | %s |\n", f.kind, f.steps, len(f.hit), at(f.hit, 50), at(f.hit, 90), at(f.hit, 99), at(f.hit, 100),
		len(f.others), at(f.others, 100))
}
