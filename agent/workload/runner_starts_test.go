package workload

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestStarts: what nobody waits for starts after what somebody does, and not for long.
func TestStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &starts{most: 1}
		begin := time.Now()
		enter := func() <-chan time.Duration {
			entered := make(chan time.Duration, 1)
			go func() {
				s.wait(context.Background())
				entered <- time.Since(begin)
			}()
			synctest.Wait()
			return entered
		}
		web, shop := s.begin(), s.begin() // neither waits
		first, second := enter(), enter()
		time.Sleep(500 * time.Millisecond)
		web()
		web()
		synctest.Wait()
		if len(first) > 0 {
			t.Fatal("one entered while another start is under way")
		}
		shop()
		if got, want := <-first, 500*time.Millisecond; got != want {
			t.Errorf("the first entered after %v, want %v", got, want)
		}
		// The first never ends its start: its time is up first, and the second's turn comes then.
		if got, want := <-second, startHold; got != want {
			t.Errorf("the second entered after %v, want %v", got, want)
		}
		time.Sleep(startHold)
		synctest.Wait()
		if s.now != 0 || len(s.waiting) != 0 {
			t.Errorf("in the end %d starts are under way and %d wait, want none", s.now, len(s.waiting))
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer s.begin()()
		cancel()
		s.wait(ctx)()
	})
}
