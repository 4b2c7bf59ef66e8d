package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// writesWithin is how long writes are watched.
const writesWithin = time.Second

func expects(a Action) bool {
	switch a.(type) {
	case Where, NodeState, Outage, Takeovers, Happened, Rebooted, Pending, Writes:
		return true
	}
	return false
}

// comes tells that an expectation may be waited for: waiting cannot make a broken one look met.
func comes(a Action) bool {
	switch a := a.(type) {
	case Where:
		return len(a.Nodes) > 0
	case NodeState, Pending:
		return true
	case Happened:
		return !a.No
	case Rebooted:
		return !a.No
	case Outage:
		return a.More
	}
	return false
}

func (p *player) expect(ctx context.Context, a Action) error {
	until := p.Now() + p.Tolerance().Patience
	for {
		err := p.met(ctx, a)
		if err == nil || !comes(a) || p.Now() >= until {
			return err
		}
		if err := p.Wait(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// met is nil if an expectation is met now.
func (p *player) met(ctx context.Context, a Action) error {
	switch a := a.(type) {
	case Where:
		return p.where(ctx, a)
	case NodeState:
		name, err := p.node(ctx, a.Node)
		if err != nil {
			return err
		}
		got, err := p.NodeState(ctx, name)
		if err == nil && got != a.State {
			err = fmt.Errorf("got %s of %s", orNone(got), name)
		}
		return err
	case Outage:
		longest, err := p.longest(ctx, a.Service)
		if err != nil {
			return err
		}
		bound := a.Than
		if slack := p.Tolerance().Slack; slack > 0 && !a.More {
			bound = time.Duration(float64(bound) * slack)
		}
		if a.More == (longest > bound) && longest != bound {
			return nil
		}
		return fmt.Errorf("got %v", longest.Round(time.Millisecond))
	case Takeovers:
		n, err := p.Takeovers(ctx)
		if err != nil {
			return err
		}
		if n -= p.mark.takeovers; a.Fewer && n >= a.Count || !a.Fewer && n != a.Count {
			return fmt.Errorf("got %d", n)
		}
	case Happened:
		events, err := p.Events(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(events[p.mark.events:], func(e Event) bool { return strings.Contains(e.Text, a.Text) })
		switch {
		case a.No && i >= 0:
			e := events[p.mark.events+i]
			return fmt.Errorf("got %q at %v", e.Text, e.At.Round(time.Millisecond))
		case !a.No && i < 0:
			return fmt.Errorf("not among the %d events since", len(events)-p.mark.events)
		}
	case Rebooted:
		name, err := p.node(ctx, a.Node)
		if err != nil {
			return err
		}
		boots, err := p.Boots(ctx)
		if err != nil {
			return err
		}
		before := p.mark.boots[name]
		if rebooted := before != "" && boots[name] != "" && boots[name] != before; rebooted == a.No {
			return fmt.Errorf("%s was in boot %.13s and is in %.13s", name, orNone(before), orNone(boots[name]))
		}
	case Writes:
		before, err := p.Stage.Writes(ctx, a.Service)
		if err != nil {
			return err
		}
		if err := p.Wait(ctx, writesWithin); err != nil {
			return err
		}
		after, err := p.Stage.Writes(ctx, a.Service)
		if err != nil {
			return err
		}
		if (after > before) == a.No {
			return fmt.Errorf("%d writes were acknowledged within %v", after-before, writesWithin)
		}
	case Pending:
		got, err := p.Pending(ctx, a.Service)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, a.Text) }) {
			return fmt.Errorf("got %q", got)
		}
	}
	return nil
}

func (p *player) where(ctx context.Context, a Where) error {
	at, err := p.Where(ctx, a.Service)
	if err != nil {
		return err
	}
	if len(a.Nodes) == 0 {
		if len(at) > 0 {
			return fmt.Errorf("got %v", at)
		}
		return nil
	}
	if len(at) == 0 {
		return errors.New("got nowhere")
	}
	var want []string
	for _, n := range a.Nodes {
		that := p.that // to ask for a place is not to mean a node
		name, err := p.node(ctx, n)
		p.that = that
		if err != nil {
			return err
		}
		want = append(want, name)
	}
	for _, n := range at {
		if !slices.Contains(want, n) {
			return fmt.Errorf("got %v", at)
		}
	}
	return nil
}

// longest outage since the mark; of one that began before, what lasted on.
func (p *player) longest(ctx context.Context, service string) (time.Duration, error) {
	spans, err := p.Outages(ctx, service)
	longest := time.Duration(0)
	for _, s := range spans {
		longest = max(longest, s.To-max(s.From, p.mark.at))
	}
	return longest, err
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
