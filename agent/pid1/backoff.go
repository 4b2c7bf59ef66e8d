package pid1

import "time"

const (
	firstDelay  = 100 * time.Millisecond // before the second restart of the agent; the first one is at once
	lastDelay   = 10 * time.Second       // the longest between restarts; the delay doubles up to it
	healthyTime = time.Minute            // an agent that ran this long starts the count anew
)

// backoff is the delay before the next start of the agent.
type backoff struct{ after time.Duration } // after: the delay after the next one, 0 at first

// next returns the delay before a restart of an agent that ran for the given time.
func (b *backoff) next(ran time.Duration) time.Duration {
	if b.after == 0 || ran >= healthyTime {
		b.after = firstDelay
		return 0
	}
	delay := b.after
	b.after = min(2*delay, lastDelay)
	return delay
}
