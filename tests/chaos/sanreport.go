package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sanFolder is what the runs in some folders came to.
type sanFolder struct {
	steps     []sanResult
	summaries []sanSummary
}

// readSAN reads the results of folders that 'chaos -san -out' has filled. A last line that was cut off is left out.
func readSAN(folders []string) (all sanFolder, err error) {
	for _, dir := range folders {
		if err := readLines(filepath.Join(dir, "san.jsonl"), &all.steps); err != nil {
			return all, err
		}
		if err := readLines(filepath.Join(dir, "san-summary.jsonl"), &all.summaries); err != nil {
			return all, err
		}
	}
	return all, nil
}

func readLines[T any](file string, into *[]T) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var bad error
	for n := 1; lines.Scan(); n++ {
		if bad != nil {
			return bad
		}
		var v T
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			bad = fmt.Errorf("%s:%d: %w", file, n, err)
			continue
		}
		*into = append(*into, v)
	}
	return lines.Err()
}

// sanPage is the page of the results.
func sanPage(all sanFolder) string {
	var b strings.Builder
	var acked, unknown, missing, wrong, checksums, second, failures int
	var judged, unjudged uint64
	commits := map[string]bool{}
	for _, s := range all.summaries {
		commits[s.Commit] = true
		acked, unknown, missing, wrong, checksums = acked+s.Audit.Acknowledged, unknown+s.Audit.Unknown, missing+len(s.Audit.Missing), wrong+len(s.Audit.Wrong), checksums+s.Audit.Checksums
		second, judged, unjudged = second+s.TwoWriters, judged+s.Judged, unjudged+s.Unjudged
	}
	fmt.Fprintf(&b, `# A database on a SAN, and what happens to it

PostgreSQL in a container on a volume, in a lab of three nodes and a SAN, all of it emulated on two processors (`+"`chaos -san`"+`).
Four sessions move money between accounts through the floating address without a pause, and remember every transaction
that was acknowledged. One fault after another, fencing on. In the end the whole database is compared with what was
acknowledged; who writes to the disk is judged on the lab's switches, by the iSCSI commands ([how](lab.md)).

| | |
|---|---|
| faults | %d |
| transactions acknowledged | %d |
| of these missing in the end | **%d** |
| balances that the entries do not make | **%d** |
| data checksum failures | **%d** |
| writes by a node that had been fenced, answered GOOD | **%d** of %d commands (%d bytes not judged) |
| transactions without an answer, which may be there or not | %d |
`, len(all.steps), acked, missing, wrong, checksums, second, judged, unjudged, unknown)
	b.WriteString("\nThe gap is the longest time without an acknowledged transaction, so it has PostgreSQL's own recovery in it.\n\n" +
		"| fault | times | volume moved | gap p50 | p90 | max | did not end well |\n|---|---|---|---|---|---|---|\n")
	for _, k := range sanKinds {
		var gaps []float64
		moved, bad := 0, 0
		for _, r := range all.steps {
			if r.Kind != k.kind {
				continue
			}
			if r.Failure != "" {
				bad++
				failures++
				continue
			}
			if gaps = append(gaps, r.GapMs/1000); r.Moved {
				moved++
			}
		}
		if len(gaps)+bad == 0 {
			continue
		}
		slices.Sort(gaps)
		fmt.Fprintf(&b, "| %s | %d | %d | %.1f s | %.1f s | %.1f s | %d |\n", k.kind, len(gaps)+bad, moved, percentile(gaps, 50), percentile(gaps, 90), largest(gaps), bad)
	}
	for _, r := range all.steps {
		if r.Failure != "" {
			fmt.Fprintf(&b, "\n- Not well: %s, seed %d, step %d: %s\n", r.Kind, r.Seed, r.Step, r.Failure)
		}
	}
	names := []string{}
	for c := range commits {
		names = append(names, c)
	}
	slices.Sort(names)
	fmt.Fprintf(&b, "\nCommits: %s.\n", strings.Join(names, ", "))
	return b.String()
}

func writeSANReport(page string, folders []string) error {
	all, err := readSAN(folders)
	if err != nil {
		return err
	}
	if len(all.summaries) == 0 {
		return fmt.Errorf("no run in %s came to its end", strings.Join(folders, ", "))
	}
	return os.WriteFile(page, []byte(sanPage(all)), 0o644)
}
