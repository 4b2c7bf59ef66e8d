package sim

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// anySteps are steps that may follow each other in any order. That an operator confirms what is not true is
// left out: that is the one lie that breaks the promises.
var anySteps = strings.Split(`power off NODE
power off NODE
power on NODE
power on NODE
reboot NODE
reboot NODE fast
panic NODE
freeze NODE running
freeze NODE standing
thaw NODE
thaw NODE
clock NODE -24h
agent stop NODE
agent start NODE
link NODE all down
link NODE eth0 down out
link NODE all down in
flap NODE all 300ms for 2s
partition NODE
partition n1 | n2 | NODE
cut n1 n2
cut NODE -> n3
cut n2 n4
heal
heal
loss 30 jitter 80ms
copies 30
corrupt 10
fail web
hang db
bmc NODE lie
bmc NODE slow
deploy web address 10.77.9.10 spec 2
deploy web address 10.77.9.10
deploy api replicas 2 spec 3
remove api
deploy db safety power
wait 200ms
wait 700ms
wait 1500ms
wait 4s`, "\n")

// TestAnyScript: whatever is done in whatever order, a script is played without a panic, and no promise is
// broken. Steps may fail: there may be no coordinator, or nothing to thaw.
func TestAnyScript(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := "nodes 4\ndeploy web address 10.77.9.10\ndeploy api replicas 2\ndeploy db safety power\nbmc n1 ok\nsettle\n"
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			step := rapid.SampledFrom(anySteps).Draw(t, "step")
			node := rapid.SampledFrom([]string{"n1", "n2", "n3", "n4"}).Draw(t, "node")
			if step = strings.ReplaceAll(step, "NODE", node); step != "cut n3 -> n3" {
				text += step + "\n"
			}
		}
		s, _, _ := Play(text)
		switch {
		case s == nil:
			t.Fatalf("no script:\n%s", text)
		case len(s.Violations) > 0:
			t.Fatalf("%s\n%s\n%s", strings.Join(s.Violations, "\n"), text, strings.Join(s.Log, "\n"))
		}
	})
}
