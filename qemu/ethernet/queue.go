package ethernet

import (
	"container/heap"
	"sync"
	"time"
)

// queue holds frames ordered by when they are due; equal times keep their order of arrival.
type queue struct {
	mu     sync.Mutex
	heap   frameHeap
	seq    uint64
	limit  int
	closed bool
	wake   chan struct{} // holds one token when the head changed or the queue was closed
}

type queued struct {
	frame []byte
	due   time.Time
	seq   uint64
}

func newQueue(limit int) *queue { return &queue{limit: limit, wake: make(chan struct{}, 1)} }

// push adds a frame, and says false if there is no room.
func (q *queue) push(frame []byte, due time.Time) bool {
	q.mu.Lock()
	if q.closed || len(q.heap) >= q.limit {
		q.mu.Unlock()
		return false
	}
	q.seq++
	heap.Push(&q.heap, queued{frame, due, q.seq})
	first := q.heap[0].seq == q.seq
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pop waits until at least one frame is due and appends up to n due frames to batch. It returns an
// empty batch when the queue is closed.
func (q *queue) pop(batch [][]byte, n int) [][]byte {
	for {
		q.mu.Lock()
		if q.closed {
			q.mu.Unlock()
			return nil
		}
		now := time.Now()
		for len(q.heap) > 0 && len(batch) < n && !q.heap[0].due.After(now) {
			batch = append(batch, heap.Pop(&q.heap).(queued).frame)
		}
		var wait time.Duration
		if len(q.heap) > 0 {
			wait = q.heap[0].due.Sub(now)
		}
		q.mu.Unlock()
		switch {
		case len(batch) > 0:
			return batch
		case wait > 0:
			timer := time.NewTimer(wait)
			select {
			case <-q.wake:
			case <-timer.C:
			}
			timer.Stop()
		default:
			<-q.wake
		}
	}
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed, q.heap = true, nil
	q.mu.Unlock()
	q.signal()
}

type frameHeap []queued

func (h frameHeap) Len() int { return len(h) }
func (h frameHeap) Less(i, j int) bool {
	if h[i].due.Equal(h[j].due) {
		return h[i].seq < h[j].seq
	}
	return h[i].due.Before(h[j].due)
}
func (h frameHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *frameHeap) Push(x any)   { *h = append(*h, x.(queued)) }
func (h *frameHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = queued{}
	*h = old[:len(old)-1]
	return x
}
