// Command chaos breaks a cluster of virtual machines again and again, with fencing on, and counts what must never
// be: two machines that answer for one floating address, and a healthy machine that is given up. The judge of the first
// is on the wire (package qemu/owners) and hears no agent. What it measures on the way, the outage that a client
// outside sees, is published with the load of the machine beside it.
//
//	chaos -n 200 -seed 7 -out DIR              200 faults; each result is a line of DIR/results.jsonl at once
//	chaos -loss 30 -jitter 50ms -for 10m -out DIR   no faults, but bad networks: counts false takeovers
//	chaos -san -n 80 -out DIR                  a database on a volume of the lab's SAN, whose node, paths and target fail
//	chaos -report docs/outage.md DIR/results.jsonl ...   the page and its picture, of one run or several
//	chaos -san -report docs/outage-san.md DIR ...   the page of runs with -san
//
// It ends with status 1 if there was a double owner, a false takeover or a step that did not end well.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	var c chaos
	var report string
	flag.StringVar(&c.lab.image, "image", "cache/image", "folder of the image")
	flag.StringVar(&c.lab.demo, "demo", "cache/demo", "folder of the demo, for its web server")
	flag.StringVar(&c.lab.skein, "skein", "bin/skein", "the operator's tool")
	flag.StringVar(&c.out, "out", "", "folder for results.jsonl, the lab and evidence of failures")
	flag.IntVar(&c.lab.nodes, "nodes", 3, "machines; three vote")
	flag.IntVar(&c.services, "addresses", 3, "floating addresses, each with a service of its own")
	flag.IntVar(&c.steps, "n", 200, "how many faults")
	flag.IntVar(&c.first, "from", 0, "number of the first fault: to go on with a seed after a run that was cut off")
	flag.Uint64Var(&c.lab.seed, "seed", 1, "of everything that is left to chance")
	flag.DurationVar(&c.limit, "for", 0, "begin no fault after this long; with -loss: how long to go on")
	flag.DurationVar(&c.every, "every", 50*time.Millisecond, "between two requests of the client to an address")
	flag.Float64Var(&c.loss, "loss", -1, "percent of the frames that every machine's every link loses; no faults then")
	flag.DurationVar(&c.jitter, "jitter", 0, "with -loss: each frame is late by this much, give or take as much")
	flag.BoolVar(&c.onSAN, "san", false, "break a database on a SAN instead; -demo must have postgres.tar ('skein image demo --postgres')")
	flag.StringVar(&c.commit, "commit", "", "what is tested (default: asked of git)")
	flag.StringVar(&report, "report", "", "write this page (.md, with an .svg beside it) from the given results.jsonl files, and end")
	flag.Parse()
	err := run(&c, report, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run(c *chaos, report string, files []string) (err error) {
	if report != "" && c.onSAN {
		return writeSANReport(report, files)
	}
	if report != "" {
		return writeReport(report, files)
	}
	if c.out == "" {
		return errors.New("-out names no folder")
	}
	if c.lab.dir, err = filepath.Abs(c.out); err != nil {
		return err
	}
	if err := os.MkdirAll(c.lab.dir, 0o755); err != nil {
		return err
	}
	if c.commit == "" {
		out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
		if err != nil {
			return fmt.Errorf("ask git for the commit (or give -commit): %w", err)
		}
		c.commit = strings.TrimSpace(string(out))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer func() { err = errors.Join(err, c.lab.down()) }()
	if c.onSAN {
		return c.san(ctx)
	}
	if c.loss >= 0 {
		return c.calm(ctx)
	}
	return c.play(ctx)
}
