// Command reports is the demonstration's report generator: every few seconds it fetches some pages and
// writes how that went, to standard output and to a file that holds the last report. A page that cannot
// be fetched is counted, never a reason to stop.
//
// It is set up by its environment:
//
//	REPORT_URLS   pages to fetch, separated by spaces (http://web/ http://media/)
//	REPORT_EVERY  time between reports (5s)
//	REPORT_FILE   where the last report is kept (/tmp/report.txt)
//
// With --check AGE it tells by its exit code whether the last report is younger than that.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "reports:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, env func(string) string, out io.Writer) error {
	file := cmp.Or(env("REPORT_FILE"), "/tmp/report.txt")
	if len(args) == 2 && args[0] == "--check" {
		age, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		return check(file, age)
	}
	if len(args) != 0 {
		return fmt.Errorf("unknown arguments %q; there is only --check AGE", args)
	}
	every, err := time.ParseDuration(cmp.Or(env("REPORT_EVERY"), "5s"))
	if err != nil || every <= 0 {
		return fmt.Errorf("REPORT_EVERY=%q is not a time such as 5s", env("REPORT_EVERY"))
	}
	urls := strings.Fields(cmp.Or(env("REPORT_URLS"), "http://web/ http://media/"))
	r := newReporter(urls)
	fmt.Fprintf(out, "reporting on %s every %s\n", strings.Join(urls, " "), every)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		r.round(ctx)
		if ctx.Err() == nil {
			text := r.report()
			fmt.Fprintln(out, text)
			if err := keep(file, text+"\n"); err != nil {
				fmt.Fprintf(out, "cannot keep the report: %v\n", err)
			}
		}
		select {
		case <-ctx.Done():
			fmt.Fprintf(out, "stopped after %d reports\n", r.rounds)
			return nil
		case <-tick.C:
		}
	}
}

// page is what was seen of one page so far.
type page struct {
	url        string
	ok, failed int
	bytes      int64
	servedBy   string // X-Served-By of the last answer
	err        error  // of the last fetch
}

type reporter struct {
	client *http.Client
	pages  []page
	rounds int
}

func newReporter(urls []string) *reporter {
	// A fresh connection each time: a report is about whether the service answers, not an old connection.
	r := &reporter{client: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
	for _, u := range urls {
		r.pages = append(r.pages, page{url: u})
	}
	return r
}

// round fetches every page once.
func (r *reporter) round(ctx context.Context) {
	for i := range r.pages {
		p := &r.pages[i]
		var n int64
		n, p.servedBy, p.err = r.fetch(ctx, p.url)
		switch {
		case ctx.Err() != nil:
			return // asked to stop: not a failure of the page
		case p.err != nil:
			p.failed++
		default:
			p.ok++
			p.bytes += n
		}
	}
	r.rounds++
}

func (r *reporter) fetch(ctx context.Context, url string) (int64, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %s", resp.Status)
	}
	return n, resp.Header.Get("X-Served-By"), err
}

// report is one line for each page.
func (r *reporter) report() string {
	lines := []string{fmt.Sprintf("report %d", r.rounds)}
	for _, p := range r.pages {
		line := fmt.Sprintf("  %s: %d ok, %d failed, %d bytes", p.url, p.ok, p.failed, p.bytes)
		if p.err != nil {
			line += fmt.Sprintf("; now failing: %v", p.err)
		} else if p.servedBy != "" {
			line += "; served by " + p.servedBy
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// keep replaces the file at once, so that a reader never sees half a report.
func keep(file, text string) error {
	tmp := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

func check(file string, age time.Duration) error {
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	if old := time.Since(st.ModTime()); old > age {
		return fmt.Errorf("the last report is %s old, want under %s", old.Round(time.Second), age)
	}
	return nil
}
