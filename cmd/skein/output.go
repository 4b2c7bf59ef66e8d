package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// addOutputFlag gives a command the -o flag that every listing has.
func addOutputFlag(cmd *cobra.Command) {
	cmd.Flags().StringP("output", "o", "text", "text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

// wantsJSON tells which form the user asked for.
func wantsJSON(cmd *cobra.Command) (bool, error) {
	switch o, _ := cmd.Flags().GetString("output"); o {
	case "json":
		return true, nil
	case "text", "":
		return false, nil
	default:
		return false, &usageError{fmt.Errorf("output %q: must be text or json", o)}
	}
}

// show prints v as JSON or as the table that draw makes.
func show(cmd *cobra.Command, v any, draw func(*table)) error {
	asJSON, err := wantsJSON(cmd)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	t := &table{w: tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)}
	draw(t)
	return t.w.Flush()
}

// table prints aligned columns.
type table struct{ w *tabwriter.Writer }

func (t *table) row(cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, c)
	}
	fmt.Fprintln(t.w)
}

// blank ends a table: what follows is aligned by itself.
func (t *table) blank() {
	t.w.Flush()
	fmt.Fprintln(t.w)
	t.w.Flush()
}

// progress tells on a terminal what is being waited for and for how long; elsewhere it prints a line
// whenever that changes. Nothing is shown for what takes under two seconds.
type progress struct {
	w     io.Writer
	tty   bool
	start time.Time
	last  string
	drawn bool
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, start: time.Now()}
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil {
			p.tty = st.Mode()&os.ModeCharDevice != 0
		}
	}
	return p
}

func (p *progress) update(what string) {
	if time.Since(p.start) < 2*time.Second {
		return
	}
	elapsed := time.Since(p.start).Round(time.Second)
	switch {
	case p.tty:
		fmt.Fprintf(p.w, "\r\033[K%5s  %s", elapsed, what)
		p.drawn = true
	case what != p.last:
		fmt.Fprintf(p.w, "%5s  %s\n", elapsed, what)
	}
	p.last = what
}

func (p *progress) done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\033[K")
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}

func joined(list []string) string { return orDash(strings.Join(list, ", ")) }
