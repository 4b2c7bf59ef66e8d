package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"sort"
	"strings"
	"time"
)

// Report of a measurement. Times are milliseconds.
type Report struct {
	Requests     int            `json:"requests"`
	Succeeded    int            `json:"succeeded"`
	Failed       int            `json:"failed"`
	LongestGapMs float64        `json:"longest_gap_ms"`
	LongestGapAt float64        `json:"longest_gap_at_ms"` // since the start
	DurationMs   float64        `json:"duration_ms"`
	LatencyP50Ms float64        `json:"latency_p50_ms"` // of successful requests
	LatencyP99Ms float64        `json:"latency_p99_ms"`
	Errors       map[string]int `json:"errors,omitempty"`
	// Timeline is the measurement in 60 equal slices: # all answered, - some, x none, blank: none asked.
	Timeline string `json:"timeline"`
}

const timelineSlices = 60

// Summarise makes the report of results of a measurement that took total.
func Summarise(results []Result, total time.Duration) *Report {
	r := &Report{Requests: len(results), DurationMs: ms(total), Errors: map[string]int{}}
	var answers, latencies []time.Duration
	for _, x := range results {
		if x.Err != nil {
			r.Failed++
			r.Errors[kindOf(x.Err)]++
			continue
		}
		r.Succeeded++
		answers = append(answers, x.End)
		latencies = append(latencies, x.End-x.Start)
	}
	gap, at := longestGap(answers, total)
	r.LongestGapMs, r.LongestGapAt = ms(gap), ms(at)
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	r.LatencyP50Ms, r.LatencyP99Ms = ms(percentile(latencies, 50)), ms(percentile(latencies, 99))
	r.Timeline = timeline(results, total)
	return r
}

// longestGap is the longest time without an answer between 0 and total, and where it begins.
func longestGap(answers []time.Duration, total time.Duration) (gap, at time.Duration) {
	answers = append([]time.Duration(nil), answers...)
	sort.Slice(answers, func(i, j int) bool { return answers[i] < answers[j] })
	last := time.Duration(0)
	for _, a := range append(answers, max(total, last)) {
		if a-last > gap {
			gap, at = a-last, last
		}
		last = max(last, a)
	}
	return gap, at
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*p/100]
}

func timeline(results []Result, total time.Duration) string {
	var ok, failed [timelineSlices]int
	for _, x := range results {
		i := 0
		if total > 0 {
			i = min(int(x.Start*timelineSlices/total), timelineSlices-1)
		}
		if x.Err == nil {
			ok[i]++
		} else {
			failed[i]++
		}
	}
	var b strings.Builder
	for i := range ok {
		switch {
		case ok[i] == 0 && failed[i] == 0:
			b.WriteByte(' ')
		case failed[i] == 0:
			b.WriteByte('#')
		case ok[i] == 0:
			b.WriteByte('x')
		default:
			b.WriteByte('-')
		}
	}
	return b.String()
}

// ms is milliseconds with one decimal.
func ms(d time.Duration) float64 {
	return math.Round(float64(d)/float64(time.Millisecond)*10) / 10
}

// kindOf groups errors that differ only in port numbers and the like.
func kindOf(err error) string {
	var status statusError
	switch {
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	s := err.Error()
	for _, known := range []string{"connection refused", "connection reset", "host unreachable", "no route to host", "EOF"} {
		if strings.Contains(s, known) {
			return known
		}
	}
	return s
}

// unchecked: a probe measures whether something answers, not who.
func unchecked() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
