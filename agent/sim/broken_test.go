package sim

import (
	"testing"
	"time"
)

// TestBrokenProtocolsAreCaught breaks one rule at a time, and plays the same random histories as TestRandom. A
// rule whose breach is not found there is one that they do not test.
func TestBrokenProtocolsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
	}{
		{"no verify write", func(c *Config) { c.noVerify = true }},
		{"verified by a read of the own copy", func(c *Config) { c.verifyByRead = true }},
		{"registered before the claim is committed", func(c *Config) { c.registerEarly = true }},
		{"a disk that preempts and does not abort", func(c *Config) { c.noAbort = true }},
		{"a lease that is counted from receipt", func(c *Config) { c.Member.CountFromReceipt = true }},
		{"a guard that does not end", func(c *Config) { c.guardForever = true }},
		{"a lease of three seconds at one node", func(c *Config) { c.leaseOf = map[string]time.Duration{"n1": 3 * time.Second} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			const most = 3000
			for seed := range uint64(most) {
				r := random(seed, false, c.change)
				if len(r.sim.Violations) > 0 {
					t.Logf("caught after %d histories: %s", seed+1, r.sim.Violations[0])
					return
				}
			}
			t.Errorf("not caught in %d histories", most)
		})
	}
}
