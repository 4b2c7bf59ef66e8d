package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(msec ...int) []time.Duration {
	var d []time.Duration
	for _, m := range msec {
		d = append(d, time.Duration(m)*time.Millisecond)
	}
	return d
}

func TestLongestGap(t *testing.T) {
	tests := []struct {
		name       string
		answers    []time.Duration
		total      int
		gap, begin int
	}{
		{"never answered", nil, 1000, 1000, 0},
		{"steady", at(20, 40, 60, 80), 100, 20, 0},
		{"hole", at(20, 40, 540, 560), 580, 500, 40},
		{"late start", at(700, 720), 740, 700, 0},
		{"never came back", at(20, 40), 900, 860, 40},
		{"out of order", at(540, 20, 560, 40), 580, 500, 40},
		{"answer after the end", at(20, 120), 100, 100, 20},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			gap, begin := longestGap(tt.answers, time.Duration(tt.total)*time.Millisecond)
			if gap.Milliseconds() != int64(tt.gap) || begin.Milliseconds() != int64(tt.begin) {
				t.Fatalf("got %v at %v, want %dms at %dms", gap, begin, tt.gap, tt.begin)
			}
		})
	}
}

// However answers fall, some stretch at least as long as the average must be found, and none longer
// than the whole.
func TestLongestGapBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := time.Duration(rapid.IntRange(1, 1e6).Draw(t, "total"))
		var answers []time.Duration
		for _, a := range rapid.SliceOf(rapid.IntRange(0, int(total))).Draw(t, "answers") {
			answers = append(answers, time.Duration(a))
		}
		gap, begin := longestGap(answers, total)
		if low := total / time.Duration(len(answers)+1); gap < low || begin+gap > total {
			t.Fatalf("got %v at %v of %v, want at least %v and inside", gap, begin, total, low)
		}
		for _, a := range answers {
			if a > begin && a < begin+gap {
				t.Fatalf("answer at %v inside the gap %v+%v", a, begin, gap)
			}
		}
	})
}

func TestSummarise(t *testing.T) {
	fail := errors.New("read tcp 10.77.0.254:4711->10.77.9.1:80: connection reset by peer")
	var results []Result
	for i := range 60 {
		r := Result{Start: time.Duration(i) * time.Second, End: time.Duration(i)*time.Second + time.Millisecond}
		if i >= 20 && i < 30 {
			r.Err = fail
		}
		results = append(results, r)
	}
	r := Summarise(results, 60*time.Second)
	if r.Requests != 60 || r.Failed != 10 || r.Succeeded != 50 || r.LongestGapMs != 11000 || r.LatencyP99Ms != 1 {
		t.Fatalf("got %+v", r)
	}
	if want := strings.Repeat("#", 20) + strings.Repeat("x", 10) + strings.Repeat("#", 30); r.Timeline != want {
		t.Fatalf("got %q, want %q", r.Timeline, want)
	}
	if got := r.Errors["connection reset"]; got != 10 {
		t.Fatalf("got %v, want 10 connection resets", r.Errors)
	}
}

// A request that hangs must not hide that the address answers again.
func TestHangingRequestHidesNothing(t *testing.T) {
	var n atomic.Int32
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 3 {
			select { // the machine died with this request
			case <-release:
			case <-r.Context().Done():
			}
		}
	}))
	defer srv.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var ok int
	r, err := Run(ctx, Config{URL: srv.URL, Every: time.Millisecond, Timeout: time.Minute, Dial: (&net.Dialer{}).DialContext,
		OnResult: func(r Result) {
			if ok++; ok == 50 {
				cancel()
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Succeeded < 50 || r.Failed != 0 {
		t.Fatalf("got %+v, want 50 answers or more while one request hangs, and no failure", r)
	}
}

func TestRunRefusesWhatItCannotAsk(t *testing.T) {
	for _, u := range []string{"10.77.9.1", "ftp://n1/", "tcp://n1", "http://", "::"} {
		if _, err := Run(t.Context(), Config{URL: u}); err == nil {
			t.Errorf("%q: got no error", u)
		}
	}
}
