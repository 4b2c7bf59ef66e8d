package writers

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Watch is a Judge behind the taps of some switches. It may be used by several goroutines.
type Watch struct {
	now func() time.Time

	mu      sync.Mutex
	judge   *Judge
	records []Record
	more    chan struct{} // closed and replaced at each record
}

// mostRecords bounds what a follower can be told.
const mostRecords = 10 * keep

// NewWatch judges by the default limits.
func NewWatch() *Watch {
	return &Watch{now: time.Now, judge: NewJudge(DefaultLimits()), more: make(chan struct{})}
}

// Tap is the eye on the switch of one LAN.
func (w *Watch) Tap(lan int) func(port string, frame []byte) {
	return func(port string, frame []byte) {
		s, ok := Parse(frame)
		if !ok {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		// The time is taken under the lock, so that it rises from frame to frame on all LANs.
		found := w.judge.Segment(w.now(), lan, port, &s)
		if len(found) == 0 {
			return
		}
		w.records = append(w.records, found...)
		if len(w.records) > mostRecords { // a wire gone mad; the report counts on
			w.records = w.records[:mostRecords]
		}
		close(w.more)
		w.more = make(chan struct{})
	}
}

// Report tells what was seen so far. The LUNs in shared may have several writers.
func (w *Watch) Report(shared []uint64) Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.Report(shared)
}

// Follow calls emit for each record so far and each that comes, until ctx ends or emit fails; not for what
// happens to the LUNs in shared.
func (w *Watch) Follow(ctx context.Context, shared []uint64, emit func(Record) error) error {
	for next := 0; ; {
		w.mu.Lock()
		records, more := w.records[next:len(w.records):len(w.records)], w.more
		w.mu.Unlock()
		for _, r := range records {
			if lun, of := r.lun(); of && slices.Contains(shared, lun) {
				continue
			}
			if err := emit(r); err != nil {
				return err
			}
		}
		next += len(records)
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}
