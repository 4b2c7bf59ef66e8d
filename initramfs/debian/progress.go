package debian

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Step runs f; if that takes over two seconds, w gets a line with the elapsed time then, every five
// seconds, and at the end, so that nobody wonders whether a build hangs.
func Step(w io.Writer, what string, f func() error) error {
	start := time.Now()
	done := make(chan struct{})
	var wg sync.WaitGroup
	shown := false
	wg.Go(func() {
		timer := time.NewTimer(2 * time.Second)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
				shown = true
				fmt.Fprintf(w, "%s ... %.0f s\n", what, time.Since(start).Seconds())
				timer.Reset(5 * time.Second)
			}
		}
	})
	err := f()
	close(done)
	wg.Wait()
	if shown && err == nil {
		fmt.Fprintf(w, "%s: done in %.1f s\n", what, time.Since(start).Seconds())
	}
	return err
}
