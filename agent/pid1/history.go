package pid1

import "github.com/skein-os/skein/agent/pid1/control"

// history is the last control.History exits, for the next agent.
type history struct {
	ring []control.Event
	next int // where the next goes once the ring is full
}

func (h *history) add(e control.Event) {
	if len(h.ring) < control.History {
		h.ring = append(h.ring, e)
		return
	}
	h.ring[h.next] = e
	h.next = (h.next + 1) % len(h.ring)
}

// all returns the exits, oldest first.
func (h *history) all() []control.Event {
	return append(append(make([]control.Event, 0, len(h.ring)), h.ring[h.next:]...), h.ring[:h.next]...)
}
