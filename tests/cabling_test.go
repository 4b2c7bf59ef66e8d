package tests

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
)

// awaitNet polls the ports of all nodes until ready says so.
func (l *labTest) awaitNet(what string, ready func([]api.NodeNet) bool) []api.NodeNet {
	l.t.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	var list []api.NodeNet
	for {
		out, err := l.try(30*time.Second, "net", "ls", "-o", "json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &list)
		}
		if err == nil && ready(list) {
			return list
		}
		if time.Now().After(deadline) {
			table, _ := l.try(30*time.Second, "net", "ls")
			l.t.Fatalf("%s: never came (%v), the ports are:\n%s", what, err, table)
		}
		time.Sleep(200 * time.Millisecond) // between two questions
	}
}

// awaitEvent polls the events until one says text.
func (l *labTest) awaitEvent(text string) string {
	l.t.Helper()
	var events string
	l.await("the event "+text, func(api.Status) bool {
		out, err := l.try(30*time.Second, "events")
		events = out
		return err == nil && strings.Contains(out, text)
	})
	return events
}

// where is the switch that a port is plugged into by what its node hears.
func where(list []api.NodeNet, node, port string) string {
	for i := range list {
		for j := range list[i].Ports {
			if p := &list[i].Ports[j]; list[i].Node == node && p.Name == port && p.Switch() != nil && p.Switch().Heard {
				return p.Switch().System
			}
		}
	}
	return ""
}

// cabling plugs a cable into the wrong switch. The cluster says which one, and that it is right again after that.
func (l *labTest) cabling() {
	l.t.Helper()
	inOrder := func(list []api.NodeNet) bool {
		for _, n := range []string{"n1", "n2", "n3"} {
			if where(list, n, "eth0") != "sw-a" || where(list, n, "eth1") != "sw-b" {
				return false
			}
		}
		return true
	}
	list := l.awaitNet("all ports on their switches", inOrder)
	for i := range list {
		for _, link := range list[i].Links {
			if list[i].Live && !link.Lost && !link.Good() {
				l.t.Logf("not good while nothing was broken: %s %+v", list[i].Node, link)
			}
		}
	}
	machine, err := l.try(time.Minute, "lab", "cable")
	if err != nil || strings.Count(machine, "n3 eth0")+strings.Count(machine, "n3 eth1") != 2 {
		l.t.Errorf("the switches do not hear n3 on both ports (%v):\n%s", err, machine)
	}
	text := l.run("net", "map")
	if strings.Count(text, " n3 eth") != 2 || !strings.Contains(text, "switch sw-b\n") {
		l.t.Errorf("the map does not show n3 on both switches:\n%s", text)
	}
	l.t.Logf("skein net ls:\n%s\nskein net map:\n%s\nskein net show n3:\n%s", l.run("net", "ls"), text, l.run("net", "show", "n3"))
	d := xml.NewDecoder(strings.NewReader(l.run("net", "map", "-o", "svg")))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			l.t.Fatalf("the map as SVG is not XML: %v", err)
		}
	}

	l.run("lab", "cable", "n3", "eth1", "sw-a")
	const fault = "both 'redundant' ports of n3 are on switch sw-a (eth0 at port swp"
	events := l.awaitEvent(fault)
	for _, want := range []string{"eth1 of n3 has no carrier: its cable is out, or switch sw-b or its port swp", "eth1 of n3 has carrier again",
		"; it was on switch sw-b port swp"} {
		if !strings.Contains(events, want) {
			l.t.Errorf("the events do not say %q:\n%s", want, events)
		}
	}
	st := l.await("the warning", func(st api.Status) bool { return strings.Contains(strings.Join(st.Warnings, "\n"), fault) })
	if !st.Healthy {
		l.t.Logf("not healthy with a cable in the wrong switch: %v", st.Problems)
	}
	l.awaitNet("eth1 of n3 on the wrong switch", func(list []api.NodeNet) bool { return where(list, "n3", "eth1") == "sw-a" })
	if text := l.run("net", "map"); !strings.Contains(text, "! "+fault) {
		l.t.Errorf("the map does not say what is wrong:\n%s", text)
	} else {
		l.t.Logf("with n3's eth1 in the wrong switch:\n%s", text)
	}
	// It is in the other LAN now, so nobody answers there: who looks for the cable is told where both ends are.
	events = l.awaitEvent("eth1: nothing gets through")
	for _, line := range strings.Split(events, "\n") {
		if strings.Contains(line, "eth1: nothing gets through") && !strings.Contains(line, "on switch sw-") {
			l.t.Errorf("news of a link do not say where it is: %s", line)
		}
	}

	l.run("lab", "heal")
	l.awaitNet("all ports on their switches again", inOrder)
	boot := nodeOf(st, "n3").BootID
	st = l.await("no warning", func(st api.Status) bool { return !strings.Contains(fmt.Sprint(st.Warnings), "redundant") })
	if events := l.run("events"); nodeOf(st, "n3").BootID == boot && !strings.Contains(events, "put right: "+fault) { // a new boot knows of no fault
		l.t.Errorf("the events do not say that it was put right:\n%s", events)
	}

	// A switch that takes less than the ports promise: heartbeats are small and do not notice. Not on eth0, which the
	// ledger is on now.
	l.run("lab", "mtu", "n3", "eth1", "1400")
	events = l.awaitEvent("packets of more than 1400 bytes from eth1 of n3 (MTU 1500, on switch sw-b port swp")
	if strings.Contains(events, "packets of more than 1400 bytes from eth0") {
		l.t.Errorf("eth0 has no limit, and the events say that it has one:\n%s", events)
	}
	l.run("lab", "heal")
	l.await("no warning", func(st api.Status) bool { return !strings.Contains(fmt.Sprint(st.Warnings), "packets of more") })
}
