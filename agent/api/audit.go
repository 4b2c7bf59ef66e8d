package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/skein-os/skein/agent/cluster"
)

// OperatorHeader names, in a request that a node passed on, who asked that node. Only nodes are believed.
const OperatorHeader = "Skein-Operator"

// asker is who wants something, for events: an operator, and the node that passed the request on.
func (s *Server) asker(r *http.Request) string {
	role, name := s.role(r)
	if by := r.Header.Get(OperatorHeader); role == RoleNode && by != "" {
		return printable(by) + " by way of " + name
	}
	return name
}

// onBehalf lets a node only pass on what an operator asked it for, under its own name: what it makes up has its
// name in the events. docs/design/least-privilege.md tells what is missing.
func (s *Server) onBehalf(r *http.Request, do string) error {
	role, name := s.role(r)
	if role == RoleNode && (r.Header.Get(ForwardedHeader) != name || r.Header.Get(OperatorHeader) == "") {
		return &statusError{http.StatusForbidden, fmt.Errorf("only operators %s; node %s does not say for whom it asks (is its software older than that of %s?)", do, name, s.backend.Self())}
	}
	return nil
}

// audit completes the event of what somebody asked for that changes nothing else in the ledger.
func (s *Server) audit(r *http.Request, e cluster.Event) cluster.Event {
	e.Time, e.Node, e.Why = time.Now(), s.backend.Self(), "asked by operator "+s.asker(r)
	return e
}

// record writes such an event before it is done. A ledger that does not take it within leaveTime does not keep an
// operator from helping a cluster that is not well: the event is in this node's log then.
func (s *Server) record(r *http.Request, e cluster.Event) {
	e = s.audit(r, e)
	ctx, cancel := context.WithTimeout(r.Context(), leaveTime)
	defer cancel()
	if ok, err := s.backend.Commit(ctx, cluster.Txn{Events: []cluster.Event{e}}); err != nil || !ok {
		s.log.Warn("the ledger did not take an event", "subject", e.Subject, "event", e.Text, "why", e.Why, "err", err)
	}
}

// mostName bounds a name that somebody else chose, in runes.
const mostName = 100

// commandName is what of a command gets into an event: its arguments may hold a password.
func commandName(argv []string) string { return printable(argv[0]) }

func printable(s string) string {
	n := 0
	return strings.Map(func(r rune) rune {
		switch n++; {
		case n > mostName:
			return -1
		case unicode.IsPrint(r):
			return r
		}
		return '?'
	}, s)
}
