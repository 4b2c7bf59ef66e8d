package scenario

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parse reads a script. An error names the line and what would be right.
func Parse(text string) (*Script, error) {
	if len(text) > mostText {
		return nil, fmt.Errorf("a script of %d bytes: want %d at most", len(text), mostText)
	}
	p := &parser{script: &Script{}, services: map[string]bool{}, volumes: map[string]bool{}}
	lines := strings.Split(text, "\n")
	if err := p.header(lines); err != nil {
		return nil, fmt.Errorf("line 1, %s: %w", strings.TrimSpace(lines[0]), err)
	}
	for i, line := range lines {
		line, _, _ = strings.Cut(line, "#")
		p.words = strings.Fields(line)
		if len(p.words) == 0 {
			continue
		}
		if err := p.line(i + 1); err != nil {
			return nil, fmt.Errorf("line %d, %s: %w", i+1, strings.Join(strings.Fields(line), " "), err)
		}
	}
	switch {
	case p.script.Nodes == 0:
		return nil, errNoCluster
	case p.repeat != nil:
		return nil, fmt.Errorf("line %d: repeat without its end: write end after the last step that is repeated", p.repeatLine)
	}
	return p.script, nil
}

var errNoCluster = errors.New("the first step must be: nodes N")

type parser struct {
	script     *Script
	words      []string // of this line that are not read yet
	services   map[string]bool
	volumes    map[string]bool // services that have one
	count      int             // of steps
	length     time.Duration   // that the steps so far take at least
	repeat     *Repeat         // that is open
	repeatLine int
}

// header reads the comments that mean something.
func (p *parser) header(lines []string) error {
	n, is := strings.CutPrefix(strings.TrimSpace(lines[0]), "# fault ")
	if !is {
		return nil
	}
	fault, err := strconv.Atoi(n)
	if err != nil || fault < 1 || fault > 999 {
		return fmt.Errorf("%q is no fault: want its number in the catalogue", n)
	}
	p.script.Fault = fault
	if len(lines) > 1 {
		if why, is := strings.CutPrefix(strings.TrimSpace(lines[1]), "# in part: "); is {
			p.script.InPart = strings.Join(strings.Fields(why), " ")
		}
	}
	return nil
}

func (p *parser) line(number int) error {
	if p.count++; p.count > MostSteps {
		return fmt.Errorf("more than %d steps", MostSteps)
	}
	key := p.words[0]
	p.words = p.words[1:]
	if key == "nodes" {
		if p.script.Nodes != 0 {
			return errors.New("the cluster was given before: want one line with nodes")
		}
		return errors.Join(p.cluster(), p.leftOver())
	}
	if p.script.Nodes == 0 {
		return errNoCluster
	}
	if key == "end" {
		return errors.Join(p.end(), p.leftOver())
	}
	read := verbs[key]
	if read == nil {
		return fmt.Errorf("unknown step %q: want %s", key, strings.Join(verbNames(), ", "))
	}
	a, err := read(p)
	if err == nil {
		err = p.leftOver()
	}
	if err != nil {
		return err
	}
	if r, is := a.(Repeat); is {
		if p.repeat != nil {
			return fmt.Errorf("a repeat within that of line %d: want its end before", p.repeatLine)
		}
		p.repeat, p.repeatLine = &r, number
		return nil
	}
	times := 1
	if p.repeat != nil {
		times = p.repeat.Times
	}
	if p.length += time.Duration(times) * lengthOf(a); p.length > Longest {
		return fmt.Errorf("the waits up to here take %v: want %v at most in all", p.length, Longest)
	}
	st := Step{Line: number, Do: a}
	if p.repeat != nil {
		p.repeat.Steps = append(p.repeat.Steps, st)
	} else {
		p.script.Steps = append(p.script.Steps, st)
	}
	return nil
}

func lengthOf(a Action) time.Duration {
	switch a := a.(type) {
	case Wait:
		return a.For
	case Flap:
		return a.For
	}
	return 0
}

func (p *parser) end() error {
	if p.repeat == nil {
		return errors.New("end of nothing: want a repeat before")
	}
	if len(p.repeat.Steps) == 0 {
		return errors.New("nothing is repeated: want steps between repeat and end")
	}
	p.script.Steps = append(p.script.Steps, Step{Line: p.repeatLine, Do: *p.repeat})
	p.repeat = nil
	return nil
}

func (p *parser) leftOver() error {
	if len(p.words) > 0 {
		return fmt.Errorf("%q is one word too many", p.words[0])
	}
	return nil
}

// cluster reads the rest of "nodes 3 seed 7 voters 3".
func (p *parser) cluster() error {
	var c Cluster
	var err error
	if c.Nodes, err = p.number("nodes", 1, MostNodes); err != nil {
		return err
	}
	for len(p.words) > 0 {
		switch key, _ := p.word("seed, voters or clusterdisk"); key {
		case "clusterdisk":
			c.ClusterDisk = true
		case "seed":
			w, err := p.word("a seed")
			if err != nil {
				return err
			}
			if c.Seed, err = strconv.ParseUint(w, 10, 64); err != nil {
				return fmt.Errorf("%q is no seed: want a number", w)
			}
		case "voters":
			if c.Voters, err = p.number("voters", 1, c.Nodes); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q: want seed, voters or clusterdisk", key)
		}
	}
	p.script.Cluster = c
	return nil
}

// word takes the next word; what says what it should be.
func (p *parser) word(what string) (string, error) {
	if len(p.words) == 0 {
		return "", fmt.Errorf("words are missing: want %s", what)
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w, nil
}

func (p *parser) number(what string, least, most int) (int, error) {
	w, err := p.word("a number of " + what)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(w)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s %q: want %d to %d", what, w, least, most)
	}
	return n, nil
}

func (p *parser) duration(what string, most time.Duration) (time.Duration, error) {
	w, err := p.word(what + ", as 1.5s")
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(w)
	if err != nil || d <= 0 || d > most {
		return 0, fmt.Errorf("%s %q: want a time above 0 and up to %v, as 1.5s", what, w, most)
	}
	return d, nil
}

func (p *parser) oneOf(what string, allowed ...string) (string, error) {
	w, err := p.word(strings.Join(allowed, ", "))
	if err != nil {
		return "", err
	}
	if !slices.Contains(allowed, w) {
		return "", fmt.Errorf("%q is no %s: want %s", w, what, strings.Join(allowed, ", "))
	}
	return w, nil
}

// service takes the name of one that was deployed before.
func (p *parser) service() (string, error) {
	w, err := p.word("a service")
	if err != nil {
		return "", err
	}
	if _, there := p.services[w]; !there {
		return "", fmt.Errorf("%q is no service: want one that was deployed before", w)
	}
	return w, nil
}

// node takes a word that means a node.
func (p *parser) node() (string, error) {
	w, err := p.word("a node")
	if err != nil {
		return "", err
	}
	return w, p.isNode(w, true)
}

func (p *parser) isNode(w string, service bool) error {
	if _, there := p.services[w]; there && service || w == "coordinator" || w == "that" {
		return nil
	}
	if n, is := nodeNumber(w); is && n <= p.script.Nodes {
		return nil
	}
	what := fmt.Sprintf("n1 to n%d, coordinator, that", p.script.Nodes)
	if service {
		what += ", or a service that was deployed before"
	}
	return fmt.Errorf("%q is no node: want %s", w, what)
}

// nodeNumber of n1, n2, ...
func nodeNumber(w string) (int, bool) {
	digits, is := strings.CutPrefix(w, "n")
	n, err := strconv.Atoi(digits)
	return n, is && err == nil && n > 0 && strconv.Itoa(n) == digits
}

// newService takes the name of a service that is deployed.
func (p *parser) newService() (string, error) {
	w, err := p.word("a name")
	if err != nil {
		return "", err
	}
	_, node := nodeNumber(w)
	fits := len(w) <= 30 && w[0] >= 'a' && w[0] <= 'z' && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
	if node || !fits || slices.Contains(reserved, w) {
		return "", fmt.Errorf("%q is no name of a service: want up to 30 of a-z, 0-9 and -, none of %s, nor a node's", w, strings.Join(reserved, ", "))
	}
	return w, nil
}

// reserved words mean something else where a service may be named.
var reserved = []string{"all", "coordinator", "event", "no", "node", "outage", "pending", "reboot", "takeovers", "that", "writes"}

func (p *parser) address() (netip.Addr, error) {
	w, err := p.word("an address")
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(w)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q is no address: want one as 10.77.9.10", w)
	}
	return a, nil
}
