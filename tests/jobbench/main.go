// Command jobbench measures how many short tasks a second Skein's jobs do on this machine, beside xargs, GNU parallel and
// Slurm of Debian, in one run: 2,000 times /bin/true, no emulation.
//
// Skein's side is what runs on a cluster, without containers: a voter of the ledger, the API over HTTPS with mutual TLS on
// loopback, the coordinator's half of jobs behind it, a node's half that asks over the network, a worker as a process of
// its own. Time counts from the submission to when the client sees that the job has ended, with all outcomes in the ledger.
//
//	go run ./tests/jobbench -peers cache/peers
//
// Peers come from Debian packages that are unpacked into a folder, not installed. Each runs with several numbers of slots,
// several times. In each round the best setting of each is compared with the best of Skein.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/skein-os/skein/agent/job/worker"
)

var (
	tasks = flag.Int("tasks", 2000, "how many tasks")
	runs  = flag.Int("runs", 5, "how often each setting runs")
	peers = flag.String("peers", "cache/peers", "folder for the peers' packages")
	only  = flag.String("only", "", "only the contestants with this in their name")
)

// contestant runs the tasks with so many slots and tells how long it took.
type contestant struct {
	name  string
	slots []int
	run   func(ctx context.Context, slots int) (time.Duration, error)
	close func()
}

type result struct {
	name  string
	slots int
	rates []float64 // tasks a second, sorted
}

func (r result) median() float64 { return r.rates[len(r.rates)/2] }

func main() {
	if worker.Called(os.Args) {
		os.Exit(worker.Main())
	}
	flag.Parse()
	if err := bench(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "jobbench:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context) error {
	dir, err := os.MkdirTemp("/dev/shm", "jobbench") // as a node's state is in memory
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var list []contestant
	ours, err := newSkein(ctx, dir)
	if err != nil {
		return err
	}
	list = append(list, *ours, xargs())
	if err := fetch(*peers); err != nil {
		fmt.Fprintln(os.Stderr, "peers are left out:", err)
	} else {
		list = append(list, parallel(*peers))
		if s, err := newSlurm(ctx, *peers, dir); err != nil {
			fmt.Fprintln(os.Stderr, "Slurm is left out:", err)
		} else {
			list = append(list, *s)
		}
	}
	defer func() {
		for _, c := range list {
			if c.close != nil {
				c.close()
			}
		}
	}()
	// The contestants take turns, so that whatever else the machine does hits all of them.
	results := map[string]*result{}
	var order []string
	ratios := map[string][]float64{} // of skein to each, round by round
	for range *runs {
		best := map[string]float64{}
		for _, c := range list {
			if !strings.Contains(c.name, *only) {
				continue
			}
			for _, n := range c.slots {
				key := fmt.Sprint(c.name, n)
				if results[key] == nil {
					results[key] = &result{name: c.name, slots: n}
					order = append(order, key)
				}
				took, err := c.run(ctx, n)
				if err != nil {
					return fmt.Errorf("%s with %d slots: %w", c.name, n, err)
				}
				rate := float64(*tasks) / took.Seconds()
				results[key].rates = append(results[key].rates, rate)
				best[c.name] = max(best[c.name], rate)
			}
		}
		for name, rate := range best {
			ratios[name] = append(ratios[name], best["skein"]/rate)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "%d x /bin/true\tslots\truns\ttasks/s, median\tfrom\tto\n", *tasks)
	for _, key := range order {
		r := results[key]
		slices.Sort(r.rates)
		fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%.0f\t%.0f\n", r.name, r.slots, len(r.rates), r.median(), r.rates[0], r.rates[len(r.rates)-1])
	}
	w.Flush()
	for _, c := range list {
		if r := ratios[c.name]; c.name != "skein" && len(r) > 0 {
			slices.Sort(r)
			fmt.Printf("skein / %s: %.1f (best setting of each in a round; median of %d rounds, %.1f to %.1f)\n", c.name, r[len(r)/2], len(r), r[0], r[len(r)-1])
		}
	}
	return nil
}

// timed runs a command and tells how long it took.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return time.Since(began), nil
}

func numbers() *strings.Reader {
	var b strings.Builder
	for i := range *tasks {
		fmt.Fprintln(&b, i+1)
	}
	return strings.NewReader(b.String())
}

// xargs keeps no books: it is how fast a shell's loop could be.
func xargs() contestant {
	return contestant{name: "xargs", slots: []int{2, 8}, run: func(ctx context.Context, n int) (time.Duration, error) {
		cmd := exec.CommandContext(ctx, "xargs", fmt.Sprint("-P", n), "-n1", "/bin/true")
		cmd.Stdin = numbers()
		return timed(cmd)
	}}
}

// parallel runs with a job log, which is its way to keep books.
func parallel(dir string) contestant {
	program := filepath.Join(dir, "root/usr/bin/parallel")
	return contestant{name: "GNU parallel", slots: []int{2, 8, 64}, run: func(ctx context.Context, n int) (time.Duration, error) {
		log, err := os.CreateTemp("/dev/shm", "joblog")
		if err != nil {
			return 0, err
		}
		log.Close()
		defer os.Remove(log.Name())
		cmd := exec.CommandContext(ctx, "perl", program, "--will-cite", fmt.Sprint("-j", n), "--joblog", log.Name(), "/bin/true", "{}")
		cmd.Stdin = numbers()
		return timed(cmd)
	}}
}

// packages of the peers, with what they need that a small machine does not have.
var packages = []string{"parallel", "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "libhwloc15", "libjson-c5", "libhttp-parser2.9",
	"libyaml-0-2", "liblua5.3-0", "libpmix2", "libdbus-1-3", "libmunge2"}

// fetch unpacks the peers' packages, once.
func fetch(dir string) error {
	root := filepath.Join(dir, "root")
	if _, err := os.Stat(filepath.Join(root, "usr/bin/parallel")); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	get := exec.Command("apt-get", append([]string{"download"}, packages...)...)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w: %s", err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) == 0 {
		return errors.Join(err, errors.New("apt-get download brought no package"))
	}
	for _, d := range debs {
		if out, err := exec.Command("dpkg", "-x", d, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", d, err, out)
		}
	}
	return nil
}
