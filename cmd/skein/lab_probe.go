package main

import (
	"fmt"
	"net/url"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu/probe"
)

func labProbeCommand() *cobra.Command {
	var cfg probe.Config
	cmd := &cobra.Command{
		Use: "probe URL", Short: "Ask an address in the lab again and again and report the longest gap", Args: cobra.ExactArgs(1),
		Long: `probe asks an address from outside the cluster, each time on a new connection, and reports the longest
time between two answers. Requests that hang hide nothing: others are asked meanwhile. It ends after
--for or on Ctrl-C, with the report.`,
		Example: "  skein lab probe http://10.77.9.1/ --for 30s\n  skein lab probe tcp://n1:7701 --every 100ms --for 10s -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := wantsJSON(cmd); err != nil {
				return err
			}
			c, err := labClient(cmd)
			if err != nil {
				return err
			}
			st, err := c.State(cmd.Context())
			if err != nil {
				return err
			}
			u, err := url.Parse(st.Proxy)
			if err != nil {
				return err
			}
			if cfg.Dial, err = labDialer(u.Host); err != nil {
				return err
			}
			cfg.URL = args[0]
			report, err := probe.Run(cmd.Context(), cfg)
			if err != nil {
				return &usageError{err}
			}
			return show(cmd, report, func(t *table) { drawProbe(t, report) })
		},
	}
	fl := cmd.Flags()
	fl.DurationVar(&cfg.Every, "every", probe.DefaultEvery, "time between the starts of two requests")
	fl.DurationVar(&cfg.For, "for", 30*time.Second, "how long to go on; 0: until Ctrl-C")
	fl.DurationVar(&cfg.Timeout, "timeout", probe.DefaultTimeout, "how long to wait for one answer")
	addOutputFlag(cmd)
	return cmd
}

func drawProbe(t *table, r *probe.Report) {
	t.row("longest gap", fmt.Sprintf("%.0f ms, %.1f s after the start", r.LongestGapMs, r.LongestGapAt/1000))
	t.row("requests", fmt.Sprintf("%d, of which %d failed", r.Requests, r.Failed))
	t.row("answered in", fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", r.LatencyP50Ms, r.LatencyP99Ms))
	kinds := make([]string, 0, len(r.Errors))
	for k := range r.Errors {
		kinds = append(kinds, k)
	}
	sort.Strings(kinds)
	for _, k := range kinds {
		t.row("failed by", fmt.Sprintf("%s (%d)", k, r.Errors[k]))
	}
	t.row("timeline", strings.TrimRight(r.Timeline, " ")+fmt.Sprintf("  # answered, x not, %.1f s a mark", r.DurationMs/60000))
}
