package scenario

import (
	"fmt"
	"strings"
	"time"
)

// String is the script as text that parses to the same script, comments aside.
func (s *Script) String() string {
	var b strings.Builder
	if s.Fault > 0 {
		fmt.Fprintf(&b, "# fault %d\n", s.Fault)
		if s.InPart != "" {
			fmt.Fprintf(&b, "# in part: %s\n", s.InPart)
		}
	}
	fmt.Fprintf(&b, "nodes %d", s.Nodes)
	if s.Seed != 0 {
		fmt.Fprintf(&b, " seed %d", s.Seed)
	}
	if s.Voters != 0 {
		fmt.Fprintf(&b, " voters %d", s.Voters)
	}
	if s.ClusterDisk {
		b.WriteString(" clusterdisk")
	}
	b.WriteByte('\n')
	for _, st := range s.Steps {
		b.WriteString(st.Do.String() + "\n")
	}
	return b.String()
}

func (a Deploy) String() string {
	s := "deploy " + a.Service
	if a.Replicas != 1 {
		s += fmt.Sprintf(" replicas %d", a.Replicas)
	}
	if a.Address.IsValid() {
		s += " address " + a.Address.String()
	}
	if a.Safety != "lease" {
		s += " safety " + a.Safety
	}
	if a.Global {
		s += " global"
	}
	if a.Memory != 0 {
		s += fmt.Sprintf(" memory %d", a.Memory)
	}
	if a.Volume {
		s += " volume"
	}
	if a.Spec != "1" {
		s += " spec " + a.Spec
	}
	return s
}
func (a Remove) String() string { return "remove " + a.Service }
func (a Fail) String() string   { return "fail " + a.Service }
func (a Hang) String() string   { return "hang " + a.Service }
func (a Settle) String() string { return "settle" }
func (a Wait) String() string   { return "wait " + short(a.For) }
func (a Repeat) String() string {
	s := fmt.Sprintf("repeat %d\n", a.Times)
	for _, st := range a.Steps {
		s += st.Do.String() + "\n"
	}
	return s + "end"
}
func (a Power) String() string  { return "power " + either(a.On, "on ", "off ") + a.Node }
func (a Reboot) String() string { return "reboot " + a.Node + either(a.Fast, " fast", "") }
func (a Panic) String() string  { return "panic " + a.Node }
func (a Freeze) String() string { return "freeze " + a.Node + " " + a.Clock }
func (a Thaw) String() string   { return "thaw " + a.Node }
func (a Clock) String() string {
	return "clock " + a.Node + " " + either(a.By > 0, "+", "") + short(a.By)
}
func (a Agent) String() string { return "agent " + either(a.Start, "start ", "stop ") + a.Node }
func (a Link) String() string {
	s := "link " + a.Node + " " + a.Link + either(a.Up, " up", " down")
	return strings.TrimSpace(s + " " + a.Direction)
}
func (a Flap) String() string {
	return fmt.Sprintf("flap %s %s %s for %s", a.Node, a.Link, short(a.Period), short(a.For))
}
func (a Partition) String() string {
	var groups []string
	for _, g := range a.Groups {
		groups = append(groups, strings.Join(g, " "))
	}
	return "partition " + strings.Join(groups, " | ")
}
func (a Cut) String() string  { return "cut " + a.From + either(a.OneWay, " -> ", " ") + a.To }
func (a Heal) String() string { return "heal" }
func (a Loss) String() string {
	s := fmt.Sprintf("loss %d", a.Percent)
	if a.Jitter != 0 {
		s += " jitter " + short(a.Jitter)
	}
	return s
}
func (a Copies) String() string  { return fmt.Sprintf("copies %d", a.Percent) }
func (a Corrupt) String() string { return fmt.Sprintf("corrupt %d", a.Percent) }
func (a Drain) String() string   { return "drain " + a.Node }
func (a Undrain) String() string { return "undrain " + a.Node }
func (a Confirm) String() string { return "confirm " + a.Node }
func (a BMC) String() string     { return "bmc " + a.Node + " " + a.Mode }
func (a Path) String() string {
	return "path " + a.Node + " " + a.Service + either(a.Up, " up", " down")
}
func (a Disk) String() string        { return "disk " + a.Service + " " + a.Fault }
func (a Coordinator) String() string { return "coordinator " + a.Node }

func (a Where) String() string {
	if len(a.Nodes) == 0 {
		return "expect " + a.Service + " nowhere"
	}
	return "expect " + a.Service + " on " + strings.Join(a.Nodes, "|")
}
func (a NodeState) String() string { return "expect node " + a.Node + " " + a.State }
func (a Outage) String() string {
	return "expect outage " + a.Service + either(a.More, " > ", " < ") + short(a.Than)
}
func (a Takeovers) String() string {
	return fmt.Sprintf("expect takeovers %s%d", either(a.Fewer, "< ", ""), a.Count)
}
func (a Happened) String() string { return "expect " + either(a.No, "no ", "") + "event " + a.Text }
func (a Rebooted) String() string { return "expect " + either(a.No, "no ", "") + "reboot " + a.Node }
func (a Writes) String() string   { return "expect " + either(a.No, "no ", "") + "writes " + a.Service }
func (a Pending) String() string  { return "expect pending " + a.Service + " " + a.Text }

func either(cond bool, a, b string) string {
	if cond {
		return a
	}
	return b
}

// short is a duration without the zeros of Duration.String.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
