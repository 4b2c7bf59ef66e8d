package scenario

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// verbs read what follows the first word of a step.
var verbs map[string]func(*parser) (Action, error)

func init() { // expect refers to verbs by way of the parser
	verbs = map[string]func(*parser) (Action, error){
		"deploy": (*parser).deploy,
		"remove": onService(func(s string) Action { return Remove{s} }),
		"fail":   onService(func(s string) Action { return Fail{s} }),
		"hang":   onService(func(s string) Action { return Hang{s} }),
		"settle": func(*parser) (Action, error) { return Settle{}, nil },
		"wait": func(p *parser) (Action, error) {
			d, err := p.duration("a wait", longestWait)
			return Wait{d}, err
		},
		"repeat": func(p *parser) (Action, error) {
			n, err := p.number("repetitions", 1, mostRepeats)
			return Repeat{Times: n}, err
		},
		"power": func(p *parser) (Action, error) {
			w, err := p.oneOf("state of power", "on", "off")
			return then(p, err, func(n string) Action { return Power{n, w == "on"} })
		},
		"agent": func(p *parser) (Action, error) {
			w, err := p.oneOf("order to an agent", "start", "stop")
			return then(p, err, func(n string) Action { return Agent{n, w == "start"} })
		},
		"reboot": func(p *parser) (Action, error) {
			n, err := p.node()
			fast := err == nil && len(p.words) > 0 && p.words[0] == "fast"
			if fast {
				p.words = p.words[1:]
			}
			return Reboot{n, fast}, err
		},
		"panic":       onNode(func(n string) Action { return Panic{n} }),
		"thaw":        onNode(func(n string) Action { return Thaw{n} }),
		"drain":       onNode(func(n string) Action { return Drain{n} }),
		"undrain":     onNode(func(n string) Action { return Undrain{n} }),
		"confirm":     onNode(func(n string) Action { return Confirm{n} }),
		"coordinator": onNode(func(n string) Action { return Coordinator{n} }),
		"freeze": func(p *parser) (Action, error) {
			n, err := p.node()
			if err != nil {
				return nil, err
			}
			c, err := p.oneOf("state of a clock", "standing", "running")
			return Freeze{n, c}, err
		},
		"bmc": func(p *parser) (Action, error) {
			n, err := p.node()
			if err != nil {
				return nil, err
			}
			m, err := p.oneOf("behaviour of a power controller", "ok", "lie", "hang", "refuse", "slow")
			return BMC{n, m}, err
		},
		"path": func(p *parser) (Action, error) {
			n, err := p.node()
			if err != nil {
				return nil, err
			}
			s, err := p.volume()
			if err != nil {
				return nil, err
			}
			w, err := p.oneOf("state of a path", "up", "down")
			return Path{n, s, w == "up"}, err
		},
		"disk": func(p *parser) (Action, error) {
			s, err := p.volume()
			if err != nil {
				return nil, err
			}
			w, err := p.oneOf("fault of a disk", DiskFaults...)
			return Disk{s, w}, err
		},
		"clock":     (*parser).clock,
		"link":      (*parser).link,
		"flap":      (*parser).flap,
		"partition": (*parser).partition,
		"cut":       (*parser).cut,
		"heal":      func(*parser) (Action, error) { return Heal{}, nil },
		"loss":      (*parser).loss,
		"copies":    onPercent(func(n int) Action { return Copies{n} }),
		"corrupt":   onPercent(func(n int) Action { return Corrupt{n} }),
		"expect":    (*parser).expect,
	}
}

func verbNames() []string {
	names := []string{"end"}
	for v := range verbs {
		names = append(names, v)
	}
	slices.Sort(names)
	return names
}

func onService(make func(string) Action) func(*parser) (Action, error) {
	return func(p *parser) (Action, error) {
		s, err := p.service()
		return make(s), err
	}
}

func onNode(make func(string) Action) func(*parser) (Action, error) {
	return func(p *parser) (Action, error) { return then(p, nil, make) }
}

func onPercent(make func(int) Action) func(*parser) (Action, error) {
	return func(p *parser) (Action, error) {
		n, err := p.number("percent", 0, 100)
		return make(n), err
	}
}

// then reads a node if there is no error yet.
func then(p *parser, err error, make func(string) Action) (Action, error) {
	if err != nil {
		return nil, err
	}
	n, err := p.node()
	return make(n), err
}

func (p *parser) deploy() (Action, error) {
	name, err := p.newService()
	if err != nil {
		return nil, err
	}
	d := Deploy{Service: name, Replicas: 1, Safety: "lease", Spec: "1"}
	for len(p.words) > 0 {
		key, _ := p.word("")
		switch key {
		case "global":
			d.Global = true
		case "replicas":
			d.Replicas, err = p.number("replicas", 0, mostReplicas)
		case "address":
			d.Address, err = p.address()
		case "safety":
			d.Safety, err = p.oneOf("safety class", "lease", "power")
		case "memory":
			d.Memory, err = p.number("GiB of memory", 0, mostMemory)
		case "volume":
			d.Volume = true
		case "spec":
			d.Spec, err = p.word("the specification's name")
		default:
			err = fmt.Errorf("%q: want replicas, address, safety, global, memory, volume or spec", key)
		}
		if err != nil {
			return nil, err
		}
	}
	if d.Volume && (d.Global || d.Replicas > 1 || d.Safety != "lease") {
		return nil, errors.New("a volume has one writer, and is a safety class of its own: no global, no replicas, no safety")
	}
	p.services[name] = d.Address.IsValid()
	p.volumes[name] = d.Volume
	return d, nil
}

// volume takes the name of a service that has one.
func (p *parser) volume() (string, error) {
	s, err := p.service()
	if err == nil && !p.volumes[s] {
		err = fmt.Errorf("%s has no volume: want a service that was deployed with one", s)
	}
	return s, err
}

func (p *parser) clock() (Action, error) {
	n, err := p.node()
	if err != nil {
		return nil, err
	}
	w, err := p.word("how far it jumps, as +24h")
	if err != nil {
		return nil, err
	}
	d, err := time.ParseDuration(w)
	if err != nil || d == 0 || d > farthest || d < -farthest || w[0] != '+' && w[0] != '-' {
		return nil, fmt.Errorf("%q: want how far it jumps, as +24h or -24h, up to %v", w, farthest)
	}
	return Clock{n, d}, nil
}

var linkNames = []string{"eth0", "eth1", "all"}

func (p *parser) link() (Action, error) {
	var l Link
	var err error
	if l.Node, err = p.node(); err != nil {
		return nil, err
	}
	if l.Link, err = p.oneOf("link", linkNames...); err != nil {
		return nil, err
	}
	state, err := p.oneOf("state of a link", "up", "down")
	if err != nil {
		return nil, err
	}
	l.Up = state == "up"
	if len(p.words) > 0 {
		l.Direction, err = p.oneOf("direction", "in", "out")
	}
	return l, err
}

func (p *parser) flap() (Action, error) {
	var f Flap
	var err error
	if f.Node, err = p.node(); err != nil {
		return nil, err
	}
	if f.Link, err = p.oneOf("link", linkNames...); err != nil {
		return nil, err
	}
	if f.Period, err = p.duration("a period", time.Minute); err != nil {
		return nil, err
	}
	if _, err = p.oneOf("word here", "for"); err != nil {
		return nil, err
	}
	if f.For, err = p.duration("how long it flaps", longestWait); err != nil {
		return nil, err
	}
	if f.Period < 20*time.Millisecond || f.For < f.Period {
		return nil, errors.New("want a period of 20 ms or more, and at least one of it")
	}
	return f, nil
}

func (p *parser) partition() (Action, error) {
	groups := [][]string{nil}
	for len(p.words) > 0 {
		if p.words[0] == "|" {
			p.words = p.words[1:]
			groups = append(groups, nil)
			continue
		}
		n, err := p.node()
		if err != nil {
			return nil, err
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], n)
	}
	if slices.ContainsFunc(groups, func(g []string) bool { return len(g) == 0 }) {
		return nil, errors.New("an empty group: want nodes, with | between groups")
	}
	return Partition{groups}, nil
}

func (p *parser) cut() (Action, error) {
	var c Cut
	var err error
	if c.From, err = p.node(); err != nil {
		return nil, err
	}
	if len(p.words) > 0 && p.words[0] == "->" {
		c.OneWay = true
		p.words = p.words[1:]
	}
	if c.To, err = p.node(); err == nil && c.From == c.To {
		err = fmt.Errorf("%s from itself: want two nodes", c.To)
	}
	return c, err
}

func (p *parser) loss() (Action, error) {
	var l Loss
	var err error
	if l.Percent, err = p.number("percent", 0, 100); err != nil || len(p.words) == 0 {
		return l, err
	}
	if _, err = p.oneOf("word here", "jitter"); err != nil {
		return nil, err
	}
	l.Jitter, err = p.duration("jitter", 10*time.Second)
	return l, err
}

func (p *parser) expect() (Action, error) {
	w, err := p.word("what is expected")
	if err != nil {
		return nil, err
	}
	switch w {
	case "node":
		n, err := p.node()
		if err != nil {
			return nil, err
		}
		st, err := p.oneOf("state of a node", "joining", "online", "draining", "drained", "lost")
		return NodeState{n, st}, err
	case "outage":
		return p.outage()
	case "takeovers":
		t := Takeovers{}
		if len(p.words) > 0 && p.words[0] == "<" {
			t.Fewer = true
			p.words = p.words[1:]
		}
		t.Count, err = p.number("takeovers", 0, 1000)
		return t, err
	case "reboot":
		n, err := p.node()
		return Rebooted{false, n}, err
	case "writes":
		s, err := p.volume()
		return Writes{false, s}, err
	case "no":
		what, err := p.oneOf("word here", "event", "reboot", "writes")
		if err != nil {
			return nil, err
		}
		if what == "writes" {
			s, err := p.volume()
			return Writes{true, s}, err
		}
		if what == "reboot" {
			n, err := p.node()
			return Rebooted{true, n}, err
		}
		text, err := p.text()
		return Happened{true, text}, err
	case "event":
		text, err := p.text()
		return Happened{false, text}, err
	case "pending":
		s, err := p.service()
		if err != nil {
			return nil, err
		}
		text, err := p.text()
		return Pending{s, text}, err
	}
	if _, there := p.services[w]; !there {
		return nil, fmt.Errorf("%q: want node, outage, takeovers, reboot, event, no reboot, no event, writes, no writes, pending, or a service that was deployed before", w)
	}
	where, err := p.oneOf("place", "on", "nowhere")
	if err != nil || where == "nowhere" {
		return Where{Service: w}, err
	}
	list, err := p.word("nodes, as n1|n2")
	if err != nil {
		return nil, err
	}
	nodes := strings.Split(list, "|")
	for _, n := range nodes {
		if err := p.isNode(n, false); err != nil {
			return nil, err
		}
	}
	return Where{w, nodes}, nil
}

func (p *parser) outage() (Action, error) {
	s, err := p.service()
	if err != nil {
		return nil, err
	}
	if !p.services[s] {
		return nil, fmt.Errorf("%s has no address, so no client asks for it: want a service that was deployed with one", s)
	}
	than, err := p.oneOf("comparison", "<", ">")
	if err != nil {
		return nil, err
	}
	d, err := p.duration("an outage", longestWait)
	return Outage{s, than == ">", d}, err
}

// text takes the rest of the line.
func (p *parser) text() (string, error) {
	if len(p.words) == 0 {
		return "", errors.New("words are missing: want a part of the event's text")
	}
	t := strings.Join(p.words, " ")
	p.words = nil
	return t, nil
}
