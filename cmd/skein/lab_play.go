package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/scenario"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/bmc"
	"github.com/skein-os/skein/qemu/daemon"
)

type playOptions struct {
	svg, record string
	slack       float64
}

// played is what came of one file.
type played struct {
	File    string        `json:"file"`
	Passed  bool          `json:"passed"`
	Outage  float64       `json:"longest_outage_ms"`
	Picture string        `json:"timeline,omitempty"`
	Run     *scenario.Run `json:"run,omitempty"`
}

func labPlayCommand() *cobra.Command {
	var o playOptions
	cmd := &cobra.Command{
		Use: "play FILE...", Short: "Play fault scenarios in the lab's cluster", Args: cobra.MinimumNArgs(1),
		Long: `play does what scenario files say to the lab's machines and looks whether what they expect comes true.
They are the files that the simulator runs; what virtual machines cannot show is refused before anything is
done. A scenario gets the cluster for itself: the stack demo is replaced, faults of before are undone, and all
is mended afterwards. The image demo/web:1 must be there ('skein lab up --demo' loads it). A run that fails
leaves a picture of its timeline.`,
		Example: "  skein lab play tests/scenarios/power-cut.txt\n  skein lab play tests/scenarios/*.txt --svg timelines --record tests/scenarios/lab.tsv",
		RunE:    func(cmd *cobra.Command, args []string) error { return labPlay(cmd, args, o) },
	}
	fl := cmd.Flags()
	fl.StringVar(&o.svg, "svg", "", "draw every run's timeline into this folder (default: those that failed, into timelines in the lab's folder)")
	fl.StringVar(&o.record, "record", "", "append the results of faults of the catalogue to this file")
	fl.Float64Var(&o.slack, "slack", 1, "multiply what an outage may last at most by this, on a slow computer")
	addOutputFlag(cmd)
	return cmd
}

func labPlay(cmd *cobra.Command, files []string, o playOptions) error {
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	if !(o.slack >= 1 && o.slack <= 100) {
		return &usageError{fmt.Errorf("slack %v: must be 1 to 100", o.slack)}
	}
	scripts := make([]*scenario.Script, len(files))
	for i, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		if scripts[i], err = scenario.Parse(string(text)); err != nil {
			return &usageError{fmt.Errorf("%s: %w", f, err)}
		}
	}
	failed := 0
	for i, f := range files {
		p, err := playFile(cmd, f, scripts[i], o)
		if err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		if !p.Passed {
			failed++
		}
		if asJSON {
			err = writeJSONLine(cmd.OutOrStdout(), p)
		} else {
			err = printPlayed(cmd.OutOrStdout(), p)
		}
		if err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d scenarios failed", failed, len(files))
	}
	return nil
}

func printPlayed(w io.Writer, p *played) error {
	verdict := "passed"
	if !p.Passed {
		verdict = "FAILED: " + p.Run.Failure
	}
	outage := "no outage"
	if p.Outage > 0 {
		outage = fmt.Sprintf("longest outage %.0f ms", p.Outage)
	}
	_, err := fmt.Fprintf(w, "%s: %s, %s, %.0f s\n", filepath.Base(p.File), verdict, outage, p.Run.Length.Seconds())
	if err == nil && p.Picture != "" {
		_, err = fmt.Fprintf(w, "  timeline: %s\n", p.Picture)
	}
	return err
}

// playFile plays one scenario. The error is of the lab; that the scenario failed is in the result.
func playFile(cmd *cobra.Command, file string, script *scenario.Script, o playOptions) (*played, error) {
	ctx := cmd.Context()
	s, err := newLabStage(cmd, o.slack)
	if err != nil {
		return nil, err
	}
	steps := newSteps(cmd.ErrOrStderr())
	defer steps.end()
	if err := s.fits(ctx, script); err != nil {
		return nil, err
	}
	steps.say(filepath.Base(file) + ": mending what is broken")
	if err := s.mend(ctx); err != nil {
		return nil, fmt.Errorf("mend the lab before: %w", err)
	}
	if s.watch, err = watchLab(ctx, s); err != nil {
		return nil, err
	}
	s.begin = time.Now()
	steps.say(filepath.Base(file) + ": playing")
	run, perr := scenario.Play(ctx, script, s)
	s.watch.end()
	p := &played{File: file, Passed: perr == nil, Outage: float64(run.LongestOutage().Milliseconds()), Run: run}
	if err := p.keep(s.dir, o); err != nil {
		return nil, err
	}
	steps.say(filepath.Base(file) + ": mending what it broke")
	if err := errors.Join(s.mend(ctx), setLabBMCs(ctx, s.cluster, s.dir)); err != nil {
		return nil, fmt.Errorf("mend the lab after: %w", err)
	}
	if o.record != "" && script.Fault > 0 && p.judged() {
		if err := p.record(o, script, time.Now()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func newLabStage(cmd *cobra.Command, slack float64) (*labStage, error) {
	dir, err := labDir(cmd)
	if err != nil {
		return nil, err
	}
	s := &labStage{lab: daemon.NewClient(dir), dir: dir, slack: slack, services: map[string]cluster.Service{}, begin: time.Now()}
	st, err := s.lab.State(cmd.Context())
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(st.Proxy)
	if err != nil {
		return nil, err
	}
	if s.dial, err = labDialer(u.Host); err != nil {
		return nil, err
	}
	if s.cluster, err = labClusterClient(); err != nil {
		return nil, err
	}
	for _, m := range st.Machines {
		s.nodes = append(s.nodes, m.Name)
	}
	slices.Sort(s.nodes)
	return s, nil
}

// fits tells whether a script can be played in this lab.
func (s *labStage) fits(ctx context.Context, script *scenario.Script) error {
	if len(s.nodes) != script.Nodes {
		return fmt.Errorf("it wants %d machines and the lab has %d: 'skein lab down', then 'skein lab up --nodes %d'", script.Nodes, len(s.nodes), script.Nodes)
	}
	if want := min(3, script.Nodes); script.Voters != 0 && script.Voters != want {
		return fmt.Errorf("it wants %d voters and a cluster of the lab has %d", script.Voters, want)
	}
	if script.ClusterDisk {
		return errors.New("it wants a cluster disk and the lab has none")
	}
	images, err := s.cluster.Images(ctx)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(images, func(i api.Image) bool { return strings.HasSuffix(i.Ref, scenarioImage) }) {
		return fmt.Errorf("the cluster has no image %s, which the services run: 'skein image load' it, or start the lab with --demo", scenarioImage)
	}
	return nil
}

// mend undoes what was done to the lab and to the cluster, and waits until all are members.
func (s *labStage) mend(ctx context.Context) error {
	st, err := s.lab.State(ctx)
	if err != nil {
		return err
	}
	for _, m := range st.Machines {
		switch m.State {
		case qemu.Frozen:
			err = errors.Join(err, s.lab.Call(ctx, daemon.Call{Op: daemon.OpThaw, Node: m.Name}))
		case qemu.Off:
			err = errors.Join(err, s.lab.Call(ctx, daemon.Call{Op: daemon.OpPowerOn, Node: m.Name}))
		}
		err = errors.Join(err, s.lab.Call(ctx, daemon.Call{Op: daemon.OpBMC, Node: m.Name, Mode: bmc.Ok}))
	}
	if err := errors.Join(err, s.lab.Call(ctx, daemon.Call{Op: daemon.OpHeal})); err != nil {
		return err
	}
	s.services, s.order = map[string]cluster.Service{}, nil
	if err := s.Settle(ctx); err != nil {
		return err
	}
	status, err := s.ask(ctx)
	if err != nil {
		return err
	}
	for _, n := range status.Nodes {
		if n.State == cluster.NodeDraining || n.State == cluster.NodeDrained {
			err = errors.Join(err, s.nodeAction(ctx, n.Name, "undrain"))
		}
		err = errors.Join(err, s.again(ctx, func(ctx context.Context) error { return s.cluster.RemoveBMC(ctx, n.Name) }))
	}
	err = errors.Join(err, s.again(ctx, func(ctx context.Context) error {
		_, err := s.cluster.RemoveStack(ctx, scenarioStack)
		return err
	}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return waitFor(ctx, s.cluster, func(st api.Status) (bool, string) {
		left := slices.ContainsFunc(st.Services, func(v api.ServiceStatus) bool { return v.Stack == scenarioStack })
		busy := slices.ContainsFunc(st.Nodes, func(n api.NodeStatus) bool { return n.Instances > 0 || n.State != cluster.NodeOnline })
		return !left && !busy, "the services of the stack " + scenarioStack + " to end"
	})
}

// judged tells whether anything was done that could fail: a lab that is too slow to get ready for the fault
// says nothing of it.
func (p *played) judged() bool {
	return p.Passed || slices.ContainsFunc(p.Run.Marks, func(m scenario.Mark) bool {
		verb, _, _ := strings.Cut(m.Text, " ")
		return m.Kind == scenario.Did && verb != "deploy" && verb != "coordinator" && verb != "bmc"
	})
}

// keep draws the timeline: always if a folder is given, else if it failed.
func (p *played) keep(dir string, o playOptions) (err error) {
	folder := o.svg
	if folder == "" {
		if p.Passed {
			return nil
		}
		folder = filepath.Join(dir, "timelines")
	}
	p.Picture, err = p.Run.Keep(folder, strings.TrimSuffix(filepath.Base(p.File), filepath.Ext(p.File)))
	return err
}

// record appends the result to the file that docs/faults.md is made from: fault, outcome, outage, date, version.
func (p *played) record(o playOptions, script *scenario.Script, at time.Time) error {
	outcome, outage := "passed", fmt.Sprintf("under %d ms", leastLabOutage.Milliseconds())
	switch {
	case !p.Passed:
		outcome = "FAILED: " + p.Run.Failure
	case script.InPart != "":
		outcome = "passed in part"
	}
	if o.slack > 1 {
		outcome += fmt.Sprintf(", bounds times %g", o.slack)
	}
	if p.Outage > 0 {
		outage = fmt.Sprintf("%.0f ms", p.Outage)
	}
	f, err := os.OpenFile(o.record, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	clean := strings.NewReplacer("\t", " ", "\n", " ", "|", "/").Replace
	_, err = fmt.Fprintf(f, "%d\t%s\t%s\t%s\t%s\n", script.Fault, clean(outcome), outage, at.UTC().Format("2006-01-02"), clean(version))
	return errors.Join(err, f.Close())
}
