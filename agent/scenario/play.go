package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// pollEvery is between two looks for something that is expected to come.
const pollEvery = 200 * time.Millisecond

// Play plays a script. It stops at the first expectation that is not met, and at the first broken promise.
// What happened until then is in the run, which is never nil.
func Play(ctx context.Context, s *Script, on Stage) (*Run, error) {
	p := &player{Stage: on, run: &Run{Fault: s.Fault, Stage: on.Name(), Nodes: on.Nodes()}}
	err := p.can(s.Steps)
	if err == nil {
		p.settled, err = p.moment(ctx)
	}
	if err == nil {
		p.mark = p.settled
		err = p.steps(ctx, s.Steps)
	}
	if err != nil {
		p.run.Failure = err.Error()
		p.run.note(p.Now(), Failed, "", p.run.Failure)
	}
	p.run.Length = p.Now()
	p.run.History = p.History(ctx)
	if events, eerr := p.Events(ctx); eerr == nil {
		for _, e := range events {
			p.run.note(e.At, Occurred, e.Node, e.Text)
		}
	} else {
		err = errors.Join(err, fmt.Errorf("read the events for the timeline: %w", eerr))
	}
	return p.run, err
}

type player struct {
	Stage
	run           *Run
	that          string // the node that was meant last
	settled, mark moment // the end of the last settle; the same before the last step that did something
}

// moment is from where things are counted.
type moment struct {
	at                time.Duration
	events, takeovers int
	boots             map[string]string
}

// can refuses a script that this stage cannot show before anything is done.
func (p *player) can(steps []Step) error {
	for _, st := range steps {
		var err error
		switch a := st.Do.(type) {
		case Repeat:
			err = p.can(a.Steps)
		case Flap:
			err = p.Can(Link{Node: a.Node, Link: a.Link})
		default:
			err = p.Can(a)
		}
		if err != nil {
			return fmt.Errorf("line %d, %s: the %s cannot show it: %w", st.Line, st.Do, p.Name(), err)
		}
	}
	return nil
}

func (p *player) steps(ctx context.Context, steps []Step) error {
	for _, st := range steps {
		if r, is := st.Do.(Repeat); is {
			for range r.Times {
				if err := p.steps(ctx, r.Steps); err != nil {
					return err
				}
			}
			continue
		}
		err := p.step(ctx, st.Do)
		if broken := p.Broken(); len(broken) > 0 {
			err = errors.New(strings.Join(broken, "; "))
		}
		if err != nil {
			return fmt.Errorf("line %d, %s: %w", st.Line, st.Do, err)
		}
	}
	return ctx.Err()
}

func (p *player) step(ctx context.Context, a Action) error {
	if expects(a) {
		return p.expect(ctx, a)
	}
	at := p.Now()
	if _, is := a.(Settle); is {
		p.run.note(at, Waited, "", a.String())
		if err := p.Settle(ctx); err != nil {
			return err
		}
		var err error
		p.settled, err = p.moment(ctx)
		return err
	}
	p.mark = p.settled
	if w, is := a.(Wait); is {
		p.run.note(at, Waited, "", a.String())
		return p.Wait(ctx, w.For)
	}
	named, err := p.named(ctx, a)
	if err != nil {
		return err
	}
	p.run.note(at, Did, about(named), named.String())
	if f, is := named.(Flap); is {
		return p.flap(ctx, f)
	}
	err = p.Do(ctx, named)
	if _, is := named.(Coordinator); is && err == nil { // an arrangement: what it costs is not the fault's
		p.settled, err = p.moment(ctx)
		p.mark = p.settled
		p.run.Arranged = append(p.run.Arranged, Span{What: named.String(), From: at, To: p.Now()})
	}
	return err
}

func (p *player) flap(ctx context.Context, f Flap) error {
	for end := p.Now() + f.For; p.Now() < end; {
		for _, up := range []bool{false, true} {
			if err := p.Do(ctx, Link{Node: f.Node, Link: f.Link, Up: up}); err != nil {
				return err
			}
			if err := p.Wait(ctx, f.Period/2); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *player) moment(ctx context.Context) (moment, error) {
	events, err := p.Events(ctx)
	if err != nil {
		return moment{}, err
	}
	n, err := p.Takeovers(ctx)
	if err != nil {
		return moment{}, err
	}
	boots, err := p.Boots(ctx)
	return moment{p.Now(), len(events), n, boots}, err
}

// named is an action with names of nodes for the script's words.
func (p *player) named(ctx context.Context, a Action) (Action, error) {
	var err error
	node := func(w string) string {
		name, e := p.node(ctx, w)
		err = errors.Join(err, e)
		return name
	}
	switch v := a.(type) {
	case Power:
		v.Node = node(v.Node)
		a = v
	case Reboot:
		v.Node = node(v.Node)
		a = v
	case Panic:
		v.Node = node(v.Node)
		a = v
	case Freeze:
		v.Node = node(v.Node)
		a = v
	case Thaw:
		v.Node = node(v.Node)
		a = v
	case Clock:
		v.Node = node(v.Node)
		a = v
	case Agent:
		v.Node = node(v.Node)
		a = v
	case Link:
		v.Node = node(v.Node)
		a = v
	case Flap:
		v.Node = node(v.Node)
		a = v
	case Cut:
		v.From, v.To = node(v.From), node(v.To)
		a = v
	case Partition:
		groups := make([][]string, len(v.Groups))
		for i, g := range v.Groups {
			for _, n := range g {
				groups[i] = append(groups[i], node(n))
			}
		}
		a = Partition{groups}
	case Drain:
		v.Node = node(v.Node)
		a = v
	case Undrain:
		v.Node = node(v.Node)
		a = v
	case Confirm:
		v.Node = node(v.Node)
		a = v
	case BMC:
		v.Node = node(v.Node)
		a = v
	case Path:
		v.Node = node(v.Node)
		a = v
	case Coordinator:
		v.Node = node(v.Node)
		a = v
	}
	return a, err
}

// about is the node that an action is done to, empty if it is none or several.
func about(a Action) string {
	switch v := a.(type) {
	case Power:
		return v.Node
	case Reboot:
		return v.Node
	case Panic:
		return v.Node
	case Freeze:
		return v.Node
	case Thaw:
		return v.Node
	case Clock:
		return v.Node
	case Agent:
		return v.Node
	case Link:
		return v.Node
	case Flap:
		return v.Node
	case Drain:
		return v.Node
	case Undrain:
		return v.Node
	case Confirm:
		return v.Node
	case BMC:
		return v.Node
	case Path:
		return v.Node
	}
	return ""
}

// node is the name that a word means; it becomes "that".
func (p *player) node(ctx context.Context, word string) (string, error) {
	name := word
	switch {
	case word == "that":
		name = p.that
		if name == "" {
			return "", errors.New("that: no node was meant before")
		}
	case word == "coordinator":
		c, err := p.Coordinator(ctx)
		if err != nil {
			return "", err
		}
		if name = c; c == "" {
			return "", errors.New("there is no coordinator")
		}
	case !slices.Contains(p.Nodes(), word):
		at, err := p.Where(ctx, word)
		if err != nil {
			return "", err
		}
		if len(at) == 0 {
			return "", fmt.Errorf("%q is no node here, and no service that runs", word)
		}
		name = at[0]
	}
	p.that = name
	return name, nil
}
