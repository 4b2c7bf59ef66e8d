package model

import (
	"fmt"
	"strings"
)

// Model is what can happen. S is a whole state, compared by value: a struct of small fields and arrays, and
// of states that are the same but for names one should be chosen (symmetry). L is the name of a step, printed
// with %v.
type Model[S comparable, L any] struct {
	Init S
	// Next calls step for each thing that can happen in s. fault: it is somebody's bad luck and not the
	// protocol's work; the goal must be within reach without any.
	Next func(s S, step func(name L, to S, fault bool))
	// Broken is the rule that s breaks, empty if it breaks none.
	Broken func(s S) string
	// Goal: what the protocol is there for has been reached, or cannot be asked for in s. May be nil.
	Goal func(s S) bool
	// Limit is how many states are looked at; default 5 million.
	Limit int
}

// Result of Explore.
type Result[S comparable, L any] struct {
	States, Steps int
	Depth         int    // the longest of the shortest ways to a state
	Complete      bool   // all states were looked at
	Broken        string // the rule, empty if none is broken
	Trace         []L    // a shortest way to where it is broken
	Last          S      // and the state there
}

// stuck is the rule behind Goal.
const stuck = "the goal is out of reach, although nothing goes wrong any more"

// Explore goes through the states in the order of their distance from Init.
func Explore[S comparable, L any](m Model[S, L]) Result[S, L] {
	e := explorer[S, L]{Model: m, index: map[S]int32{}}
	if e.Limit == 0 {
		e.Limit = 5_000_000
	}
	e.add(m.Init, node[S, L]{state: m.Init, from: -1})
	for at := 0; at < len(e.nodes); at++ {
		n := e.nodes[at]
		if why := m.Broken(n.state); why != "" {
			return e.result(int32(at), why)
		}
		if len(e.nodes) > e.Limit {
			return e.result(-1, "")
		}
		m.Next(n.state, func(name L, to S, fault bool) {
			next, known := e.index[to]
			if !known {
				next = e.add(to, node[S, L]{state: to, from: int32(at), via: name, depth: n.depth + 1})
			}
			e.steps++
			if m.Goal != nil && !fault && next != int32(at) {
				e.edges = append(e.edges, edge{int32(at), next})
			}
		})
	}
	e.complete = true
	if at := e.stranded(); at >= 0 {
		return e.result(at, stuck)
	}
	return e.result(-1, "")
}

type node[S comparable, L any] struct {
	state S
	from  int32
	depth int32
	via   L
}

type edge struct{ from, to int32 }

type explorer[S comparable, L any] struct {
	Model[S, L]
	index    map[S]int32
	nodes    []node[S, L]
	edges    []edge
	steps    int
	complete bool
}

func (e *explorer[S, L]) add(s S, n node[S, L]) int32 {
	at := int32(len(e.nodes))
	e.index[s] = at
	e.nodes = append(e.nodes, n)
	return at
}

// stranded is the first state from which no way without faults leads to the goal, -1 if there is none: all
// that can reach it are found backwards from the goal.
func (e *explorer[S, L]) stranded() int32 {
	if e.Goal == nil {
		return -1
	}
	first := make([]int32, len(e.nodes)+1) // edges into a state are back[first[state]:first[state+1]]
	for _, x := range e.edges {
		first[x.to+1]++
	}
	for i := range e.nodes {
		first[i+1] += first[i]
	}
	back, fill := make([]int32, len(e.edges)), append([]int32(nil), first...)
	for _, x := range e.edges {
		back[fill[x.to]] = x.from
		fill[x.to]++
	}
	can := make([]bool, len(e.nodes))
	var todo []int32
	for i := range e.nodes {
		if e.Goal(e.nodes[i].state) {
			can[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range back[first[at]:first[at+1]] {
			if !can[from] {
				can[from] = true
				todo = append(todo, from)
			}
		}
	}
	for i := range can {
		if !can[i] {
			return int32(i)
		}
	}
	return -1
}

func (e *explorer[S, L]) result(at int32, why string) Result[S, L] {
	r := Result[S, L]{States: len(e.nodes), Steps: e.steps, Complete: e.complete, Broken: why, Depth: int(e.nodes[len(e.nodes)-1].depth)}
	if at < 0 {
		return r
	}
	r.Last = e.nodes[at].state
	r.Trace = make([]L, e.nodes[at].depth)
	for i := len(r.Trace) - 1; i >= 0; i-- {
		r.Trace[i] = e.nodes[at].via
		at = e.nodes[at].from
	}
	return r
}

// String is the counterexample as a list of steps, or what was looked at.
func (r Result[S, L]) String() string {
	if r.Broken == "" {
		all := "all of them"
		if !r.Complete {
			all = "NOT all of them: the limit was reached"
		}
		return fmt.Sprintf("%d states and %d steps, %s, no way longer than %d", r.States, r.Steps, all, r.Depth)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s. After %d steps (%d states were looked at):", r.Broken, len(r.Trace), r.States)
	for i, l := range r.Trace {
		fmt.Fprintf(&b, "\n%4d  %v", i+1, l)
	}
	return b.String()
}
