package tests

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

// pending is what waits for an operator.
func (l *labTest) pending() api.Pending {
	l.t.Helper()
	var p api.Pending
	for deadline := time.Now().Add(3 * time.Minute); ; {
		out, err := l.try(30*time.Second, "node", "pending", "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &p)
		}
		if err == nil {
			return p
		}
		if time.Now().After(deadline) {
			l.t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond) // between two questions, while no node answers
	}
}

// TestApproval: a machine that knows only the CA's fingerprint shows a code, is denied, and joins when it is approved.
func TestApproval(t *testing.T) {
	l := newLab(t)
	l.run("lab", "up", "--nodes", "2", "--image", os.Getenv("SKEIN_IMAGE_DIR"))
	start := time.Now()
	l.run("lab", "add", "--approval")
	shown := regexp.MustCompile(`skein node approve ([0-9A-Z]{5}-[0-9A-Z]{5})`)
	code := l.consoleSays("n3", shown)[1]
	var who cluster.Applicant
	for deadline := time.Now().Add(time.Minute); who.Code == ""; {
		if p := l.pending(); len(p.Applicants) == 1 {
			who = p.Applicants[0]
		} else if len(p.Applicants) > 1 || time.Now().After(deadline) {
			t.Fatalf("pending: got %+v, want one machine", p)
		}
		time.Sleep(200 * time.Millisecond) // between two looks
	}
	if who.Code != code || len(who.Links) == 0 || who.MachineID == "" || !who.From.IsValid() {
		t.Errorf("pending: got %+v, want the code %s of its console, and what the machine is", who, code)
	}
	if st := l.await("two nodes", func(st api.Status) bool { return st.Healthy }); len(st.Nodes) != 2 {
		t.Fatalf("got %d nodes before the approval, want 2", len(st.Nodes))
	}
	t.Logf("it asked %s after its start", time.Since(start).Round(100*time.Millisecond))

	l.run("node", "deny", who.Name)
	l.consoleSays("n3", regexp.MustCompile(`this machine was denied`))
	approved := time.Now()
	// As it was read from a screen.
	l.run("node", "approve", strings.ToLower(strings.ReplaceAll(code, "-", "")), "--name", "n3")
	l.await("n3 is a member", func(st api.Status) bool {
		n := nodeOf(st, "n3")
		return n != nil && n.State == cluster.NodeOnline
	})
	t.Logf("it was online %s after its approval", time.Since(approved).Round(100*time.Millisecond))
	if p := l.pending(); len(p.Applicants)+len(p.Verdicts) != 0 {
		t.Errorf("pending after the admission: got %+v, want nothing", p)
	}
	events := l.run("events")
	for _, want := range []string{"with the code " + code, "was denied", "approved by lab, by its code " + code} {
		if !strings.Contains(events, want) {
			t.Errorf("the events do not tell %q:\n%s", want, events)
		}
	}
	// It is as good a member as the others: its agent goes on after a restart, which needs what it was given.
	l.run("node", "restart-agent", "n3")
	l.consoleSays("n3", regexp.MustCompile(`going on as a member after a restart`))
	l.await("healthy with three", func(st api.Status) bool { return st.Healthy && len(st.Nodes) == 3 })
}

// consoleSays waits until a machine's console has what the pattern wants.
func (l *labTest) consoleSays(machine string, want *regexp.Regexp) []string {
	l.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		out, err := l.try(time.Minute, "lab", "console", machine)
		if m := want.FindStringSubmatch(out); m != nil {
			return m
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the console of %s does not say %q (%v):\n%s", machine, want, err, tail([]byte(out), 3000))
		}
		time.Sleep(200 * time.Millisecond) // between two looks; what is awaited is the line
	}
}
