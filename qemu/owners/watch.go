package owners

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Report is what was seen so far.
type Report struct {
	Addresses  []Address   `json:"addresses"`  // by address
	Violations []Violation `json:"violations"` // in the order in which they were found
	// DoubleOwners counts the violations, also those for which the list has no room.
	DoubleOwners int `json:"double_owners"`
	// Pending are machines that came back to an address and may still announce it in time.
	Pending int `json:"pending"`
}

// Record is one line of what a follower is told: one of the two.
type Record struct {
	Handover  *Handover  `json:"handover,omitempty"`
	Violation *Violation `json:"violation,omitempty"`
}

// Watch is a Book behind the taps of some switches. It may be used by several goroutines.
type Watch struct {
	floating netip.Prefix
	now      func() time.Time

	mu      sync.Mutex
	book    *Book
	records []Record
	more    chan struct{} // closed and replaced at each record
}

// mostRecords bounds what a follower can be told.
const mostRecords = 10 * keep

// NewWatch judges the addresses of a network by the default limits.
func NewWatch(floating netip.Prefix) *Watch {
	return &Watch{floating: floating, now: time.Now, book: NewBook(DefaultLimits()), more: make(chan struct{})}
}

// Tap is the eye on the switch of one LAN.
func (w *Watch) Tap(lan int) func(port string, frame []byte) {
	return func(port string, frame []byte) {
		addr, kind, ok := Parse(frame, w.floating)
		if !ok {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		// The time is taken under the lock, so that it rises from frame to frame on all LANs.
		h, found := w.book.Note(Answer{Time: w.now(), Node: port, LAN: lan, Addr: addr, Kind: kind})
		w.record(h, found)
	}
}

func (w *Watch) record(h *Handover, found []Violation) {
	for i := range found {
		w.records = append(w.records, Record{Violation: &found[i]})
	}
	if h != nil {
		w.records = append(w.records, Record{Handover: h})
	}
	if len(w.records) > mostRecords { // a wire gone mad; the report counts on
		w.records = w.records[:mostRecords]
	}
	if h != nil || len(found) > 0 {
		close(w.more)
		w.more = make(chan struct{})
	}
}

// Report tells what was seen so far, with the returns that are overdue now.
func (w *Watch) Report() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record(nil, w.book.Expire(w.now()))
	r := Report{Addresses: []Address{}, Violations: append([]Violation{}, w.book.violations...), DoubleOwners: w.book.count}
	for _, addr := range w.book.sorted() {
		if w.book.addrs[addr].back != nil {
			r.Pending++
		}
		a := w.book.addrs[addr].Address
		a.Handovers = slices.Clone(a.Handovers)
		r.Addresses = append(r.Addresses, a)
	}
	return r
}

// Follow calls emit for each record so far and each that comes, until ctx ends or emit fails.
func (w *Watch) Follow(ctx context.Context, emit func(Record) error) error {
	for next := 0; ; {
		w.mu.Lock()
		records, more := w.records[next:len(w.records):len(w.records)], w.more
		w.mu.Unlock()
		for _, r := range records {
			if err := emit(r); err != nil {
				return err
			}
		}
		next += len(records)
		overdue := time.NewTimer(DefaultLimits().Announce)
		select {
		case <-more:
		case <-overdue.C: // a return that was never announced is found by looking
			w.mu.Lock()
			w.record(nil, w.book.Expire(w.now()))
			w.mu.Unlock()
		case <-ctx.Done():
			overdue.Stop()
			return nil
		}
		overdue.Stop()
	}
}
