package agent

import (
	"testing"
	"time"
)

func TestAgeIsCountedByWhoCoordinates(t *testing.T) {
	var h hourCounter
	at := time.Now()
	minutes := func(n int, leads bool) (hours int) {
		for range n {
			at = at.Add(time.Minute)
			if h.due(leads, at) {
				hours++
			}
		}
		return hours
	}
	if got := minutes(300, false); got != 0 {
		t.Errorf("counted %d hours without coordinating", got)
	}
	if got := minutes(301, true); got != 5 {
		t.Errorf("counted %d of 5 hours", got)
	}
	minutes(1, false)
	if got := minutes(60, true); got != 0 {
		t.Errorf("counted %d hours after a change of the coordinator, want none before a whole one", got)
	}
}
