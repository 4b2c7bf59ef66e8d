package workload

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// startHold is for how long a start that does not come to an end keeps others waiting.
const startHold = 2 * time.Second

// starts lets no more instances start at the same time than there are processors: more would only slow each
// other down, when all that a lost node ran starts here at once. One that somebody waits for at an address
// never waits itself. Nobody waits for long: it is about order, not about a limit.
type starts struct {
	most int

	mu      sync.Mutex
	now     int
	waiting []chan struct{}
}

// urgent tells whether somebody waits for the instance at an address.
func urgent(s *cluster.Service) bool { return len(s.Floating) > 0 }

// begin counts a start that does not wait. Call the returned function when the instance is in use or has
// ended; more than once does no harm.
func (s *starts) begin() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	return s.once()
}

// wait is begin for one that waits its turn, for startHold or until ctx ends at most.
func (s *starts) wait(ctx context.Context) (done func()) {
	s.mu.Lock()
	if s.now >= s.most {
		turn := make(chan struct{})
		s.waiting = append(s.waiting, turn)
		s.mu.Unlock()
		timer := time.NewTimer(startHold)
		defer timer.Stop()
		select {
		case <-turn:
		case <-timer.C:
		case <-ctx.Done():
		}
		s.mu.Lock()
		s.waiting = slices.DeleteFunc(s.waiting, func(c chan struct{}) bool { return c == turn })
	}
	defer s.mu.Unlock()
	s.now++
	return s.once()
}

func (s *starts) once() func() {
	var once sync.Once
	end := func() {
		once.Do(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.now--; s.now < s.most && len(s.waiting) > 0 {
				close(s.waiting[0])
				s.waiting = s.waiting[1:]
			}
		})
	}
	timer := time.AfterFunc(startHold, end)
	return func() {
		timer.Stop()
		end()
	}
}
