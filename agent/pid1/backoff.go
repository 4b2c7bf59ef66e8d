package pid1

import "time"

const (
	firstDelay  = 100 * time.Millisecond // before the first restart of the agent
	lastDelay   = 10 * time.Second       // the longest between restarts; the delay doubles up to it
	healthyTime = time.Minute            // an agent that ran this long starts the count anew
)

// backoff is the delay before the next start of the agent.
type backoff struct{ last time.Duration }

// next returns the delay before a restart of an agent that ran for the given time.
func (b *backoff) next(ran time.Duration) time.Duration {
	switch {
	case b.last == 0 || ran >= healthyTime:
		b.last = firstDelay
	default:
		b.last = min(2*b.last, lastDelay)
	}
	return b.last
}
