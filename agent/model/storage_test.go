package model

import (
	"os"
	"testing"
)

// TestOneWriter: with the rules kept there is one writer, whatever the order of events.
func TestOneWriter(t *testing.T) {
	for _, c := range []struct {
		name string
		long bool // takes seconds
		volumeRules
	}{
		{"two nodes, three claims", false, volumeRules{nodes: 2, claims: 3}},
		{"whoever writes is killed late", false, volumeRules{nodes: 2, claims: 3, slow: true}},
		{"one node holds the reservation", false, volumeRules{nodes: 2, claims: 3, slow: true, holder: true}},
		{"who gives up unregisters, but not the holder", false, volumeRules{nodes: 2, claims: 3, slow: true, holder: true, parks: true}},
		{"a target that forgets", false, volumeRules{nodes: 2, claims: 3, forgets: true}},
		{"three nodes", true, volumeRules{nodes: 3, claims: 3, slow: true}},
		{"three nodes, the holder's key stays", true, volumeRules{nodes: 3, claims: 3, slow: true, holder: true, parks: true}},
		{"three nodes, a target that forgets", true, volumeRules{nodes: 3, claims: 3, forgets: true, holder: true}},
		{"two nodes, four claims", true, volumeRules{nodes: 2, claims: 4, slow: true}},
		{"three nodes, four claims", true, volumeRules{nodes: 3, claims: 4, slow: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long && testing.Short() {
				t.Skip("takes seconds")
			}
			if c.nodes+c.claims > 6 && os.Getenv("SKEIN_MODEL") != "all" {
				t.Skip("2.4 million states take ten seconds and a gigabyte: SKEIN_MODEL=all")
			}
			got := Explore(newVolumeModel(c.volumeRules))
			if got.Broken != "" || !got.Complete {
				t.Fatalf("got %v", got)
			}
			t.Log(got)
		})
	}
}

// TestBrokenProtocolsHaveCounterexamples: each rule is needed.
func TestBrokenProtocolsHaveCounterexamples(t *testing.T) {
	for _, c := range []struct {
		name string
		want harm
		volumeRules
	}{
		{"no verify", olderWrite, volumeRules{forgets: true, noVerify: true}},
		{"a read instead of a write", olderWrite, volumeRules{forgets: true, verifyByRead: true}},
		{"register before the claim is committed", uncommittedKey, volumeRules{registerEarly: true}},
		{"preempt without abort", olderWrite, volumeRules{noAbort: true}},
		{"one key for all epochs", noReason, volumeRules{oneKey: true}},
		{"who gives up unregisters", olderWrite, volumeRules{unregister: true}},
		{"who gives up unregisters, one node holds the reservation", olderWrite, volumeRules{unregister: true, holder: true}},
		{"a new epoch begins over the writes of the last", olderWrite, volumeRules{overlap: true}},
		{"old unit attentions", noReason, volumeRules{oldNews: true}},
		{"a command that was given up is executed later", olderWrite, volumeRules{ghosts: true, slow: true}},
		{"a target that forgets, and a kernel that does not tell", olderWrite, volumeRules{forgets: true, slow: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.nodes, c.claims = 2, 3
			got := Explore(newVolumeModel(c.volumeRules))
			if got.Broken != c.want.String() {
				t.Fatalf("got %v, want a counterexample: %v", got, c.want)
			}
			t.Log(got)
		})
	}
}
