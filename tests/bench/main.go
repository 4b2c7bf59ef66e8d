// Command bench measures what Skein promises, on a lab of its own: how long machines take to become a
// cluster, how long a client waits when one loses power, how much memory and space it all takes. Each
// figure stands beside the load of the machine it was measured on, and times are set in relation to
// something measured in the same run.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/qemu"
)

func main() {
	var b bench
	flag.StringVar(&b.image, "image", "cache/image", "folder of the image")
	flag.StringVar(&b.demo, "demo", "cache/demo", "folder of the demo")
	flag.StringVar(&b.skein, "skein", "bin/skein", "the operator's tool")
	flag.StringVar(&b.only, "only", "", "volumes: only what concerns them; empty: everything")
	flag.IntVar(&b.cuts, "cuts", 5, "how many power cuts of each kind")
	flag.Parse()
	if err := b.run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	image, demo, skein string
	only               string
	cuts               int
	dir                string
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "skein-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	fmt.Println(load())
	for _, f := range []string{"bzImage", "initramfs.cpio.zst"} {
		if st, err := os.Stat(filepath.Join(b.image, f)); err == nil {
			fmt.Printf("%-44s %6.1f MB\n", "size of "+f, float64(st.Size())/1e6)
		}
	}
	if b.only == "volumes" {
		return b.volumes()
	}
	bare, err := b.bareBoot(ctx)
	if err != nil {
		return fmt.Errorf("bare boot: %w", err)
	}
	fmt.Printf("%-44s %6.1f s\n", "three machines with an empty init, power-on", bare.Seconds())

	defer b.call("lab", "down")
	joined, voting, err := b.up()
	if err != nil {
		return err
	}
	for _, f := range []struct {
		what string
		took time.Duration
	}{{"three machines, power-on to joined", joined}, {"the same, to a ledger with three copies", voting}} {
		fmt.Printf("%-44s %6.1f s   %.1f times the bare boot (aim for joined: 3)\n", f.what, f.took.Seconds(), f.took.Seconds()/bare.Seconds())
	}
	if err := b.deploy(); err != nil {
		return err
	}
	if err := b.memory(); err != nil {
		return err
	}
	for _, kind := range []struct {
		name        string
		coordinator bool
	}{
		{"the node that serves, not the coordinator", false},
		{"the node that serves, as the coordinator", true},
	} {
		var gaps []float64
		for range b.cuts {
			gap, ok, err := b.cut(kind.coordinator)
			if err != nil {
				return fmt.Errorf("cut of %s: %w", kind.name, err)
			}
			if ok {
				gaps = append(gaps, gap)
			}
		}
		if len(gaps) == 0 {
			fmt.Printf("outage seen by a client, power cut of %s: the service never was there\n", kind.name)
			continue
		}
		slices.Sort(gaps)
		at := func(p float64) float64 { return gaps[min(len(gaps)-1, int(p*float64(len(gaps))))] }
		fmt.Printf("outage seen by a client, power cut of\n  %-42s p50 %.0f ms, p99 %.0f ms, max %.0f ms of %d\n",
			kind.name, at(0.5), at(0.99), gaps[len(gaps)-1], len(gaps))
	}
	if err := b.volumes(); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	fmt.Println(load())
	return nil
}

// load tells how busy the machine is: every figure is to be read beside it.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "load of this machine: unknown"
	}
	return "load of this machine: " + strings.Join(strings.Fields(string(data))[:3], " ")
}

// bareBoot is the time until the last of three machines of the same kind gives control to an init that
// is not there: kernel and archive, and nothing of ours.
func (b *bench) bareBoot(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	took, err := qemu.Boot(ctx, qemu.Config{
		Kernel: filepath.Join(b.image, "vmlinux"), Initrd: filepath.Join(b.image, "initramfs.cpio.lz4"),
		Append: "init=/nothing rdinit=/nothing", Log: slog.New(slog.DiscardHandler),
	}, 3, regexp.MustCompile(`Unable to mount root|Failed to execute|No working init|Cannot open root`))
	if err != nil {
		return 0, err
	}
	return slices.Max(took), nil
}

func (b *bench) call(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.skein, args...)
	cmd.Env = append(os.Environ(), "SKEIN_LAB_DIR="+filepath.Join(b.dir, "lab"), "SKEIN_CONFIG="+filepath.Join(b.dir, "contexts.json"), "SKEIN_CONTEXT=", "TZ=UTC")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("skein %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

// up starts the lab, and tells when all machines had joined and when each had its copy of the ledger.
func (b *bench) up() (joined, voting time.Duration, err error) {
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := b.call("lab", "up", "--image", b.image)
		done <- err
	}()
	for {
		// There is nobody to ask before the cluster has formed.
		if st, err := b.status(); err == nil && joined == 0 && len(st.Nodes) == 3 && !slices.ContainsFunc(st.Nodes, func(n api.NodeStatus) bool {
			return n.State != cluster.NodeOnline && !strings.HasPrefix(n.Reason, "becoming a voter")
		}) {
			joined = time.Since(begin)
		}
		select {
		case err := <-done:
			if voting = time.Since(begin); joined == 0 {
				joined = voting
			}
			return joined, voting, err
		case <-time.After(200 * time.Millisecond): // between two questions
		}
	}
}

func (b *bench) deploy() error {
	archives, err := filepath.Glob(filepath.Join(b.demo, "*.tar"))
	if err != nil {
		return err
	}
	if _, err := b.call(append([]string{"image", "load"}, archives...)...); err != nil {
		return err
	}
	_, err = b.call("deploy", "-f", filepath.Join(b.demo, "compose.yaml"), "demo")
	return err
}

func (b *bench) status() (st api.Status, err error) {
	out, err := b.call("status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &st)
	}
	return st, err
}

// settled is how long a cluster must have been healthy to count as at rest.
const settled = 10 * time.Second

// healthy waits until the cluster is at rest: a cut of a cluster that still recovers from the last one
// measures something else.
func (b *bench) healthy() (api.Status, error) {
	deadline := time.Now().Add(5 * time.Minute)
	since := time.Now()
	for {
		st, err := b.status()
		if err != nil || !st.Healthy {
			since = time.Now()
		} else if time.Since(since) > settled {
			return st, nil
		}
		if time.Now().After(deadline) {
			return st, fmt.Errorf("the cluster does not become healthy: %v %w", st.Problems, err)
		}
		time.Sleep(200 * time.Millisecond) // between two questions
	}
}

func (b *bench) memory() error {
	// A fourth node is a worker: three vote.
	if _, err := b.call("lab", "add"); err != nil {
		return err
	}
	st, err := b.healthy()
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Name != "n1" && n.Voter {
			continue
		}
		out, err := b.call("status", "--endpoint", n.Name, "-o", "json")
		if err != nil {
			return err
		}
		var of api.Status
		if err := json.Unmarshal([]byte(out), &of); err != nil {
			return err
		}
		kind, aim := "a voter", 150
		if !n.Voter {
			kind, aim = "a worker", 60
		}
		fmt.Printf("%-44s agent %.0f MB, PID 1 %.0f MB (aim for the agent: %d MB)\n", "memory on "+of.Answered+", "+kind,
			float64(of.Memory.Agent)/1e6, float64(of.Memory.PID1)/1e6, aim)
	}
	if _, err := b.call("node", "drain", "n4"); err != nil {
		return err
	}
	if _, err := b.call("node", "remove", "n4"); err != nil {
		return err
	}
	_, err = b.call("lab", "power", "off", "n4")
	return err
}

const webURL = "http://10.77.9.10/"

func owner(st api.Status) string {
	for _, s := range st.Services {
		if s.Name == "web" && len(s.Instances) == 1 && s.Instances[0].State == cluster.InstanceRunning {
			return s.Instances[0].Node
		}
	}
	return ""
}

// move has the service run on the coordinator, or on another node, by draining those where it should not be.
func (b *bench) move(toCoordinator bool) (st api.Status, ok bool, err error) {
	for range 4 {
		if st, err = b.healthy(); err != nil {
			return st, false, err
		}
		if (owner(st) == st.Coordinator) == toCoordinator {
			return st, true, nil
		}
		var drained []string
		for _, n := range st.Nodes {
			if (n.Name == st.Coordinator) != toCoordinator {
				drained = append(drained, n.Name)
				if _, err := b.call("node", "drain", n.Name); err != nil {
					return st, false, err
				}
			}
		}
		for _, n := range drained {
			if _, err := b.call("node", "undrain", n); err != nil {
				return st, false, err
			}
		}
	}
	return st, false, nil
}

// cut has the service run where it should, cuts that node's power while an address is polled, and powers it
// on again.
func (b *bench) cut(coordinator bool) (gap float64, ok bool, err error) {
	st, ok, err := b.move(coordinator)
	if err != nil || !ok {
		return 0, false, err
	}
	victim := owner(st)
	type answer struct {
		out string
		err error
	}
	probed := make(chan answer, 1)
	go func() {
		out, err := b.call("lab", "probe", webURL, "--every", "20ms", "--for", "15s", "-o", "json")
		probed <- answer{out, err}
	}()
	time.Sleep(2 * time.Second) // part of the measurement: two seconds of answers before the cut
	if _, err := b.call("lab", "power", "off", victim); err != nil {
		return 0, false, err
	}
	a := <-probed
	if a.err != nil {
		return 0, false, a.err
	}
	var r struct {
		LongestGapMS float64 `json:"longest_gap_ms"`
	}
	if err := json.Unmarshal([]byte(a.out), &r); err != nil {
		return 0, false, err
	}
	_, err = b.call("lab", "power", "on", victim)
	return r.LongestGapMS, true, err
}
