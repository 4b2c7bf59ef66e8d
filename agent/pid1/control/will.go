package control

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Bounds of a will. One of the greatest size fits into MaxLine.
const (
	MaxWillLinks    = 8
	MaxWillTargets  = 256 // of all links together
	MaxWillPayload  = 576 // bytes
	MaxWillWords    = 640 // bytes of last words
	MaxWillPatience = 30 * time.Second
)

// maxLinkName is the kernel's IFNAMSIZ without its final zero.
const maxLinkName = 15

// Will is what PID 1 sends for an agent that has ended, or for a boot that ends. The agent makes it, with all
// signatures, while it is well.
type Will struct {
	// PatienceMS is for how long after the agent's end it is worth sending.
	PatienceMS int64      `json:"patience_ms"`
	Links      []WillLink `json:"links"`
}

// WillLink is one UDP datagram, to be sent through one link to each of its targets.
type WillLink struct {
	Link    string           `json:"link"`
	Payload []byte           `json:"payload"`
	To      []netip.AddrPort `json:"to"`
	// Stopped and Failed are last words, to the same targets: for when the machine is being stopped in order and
	// no agent runs any more, and for when PID 1 fails. Either may be missing.
	Stopped []byte `json:"stopped,omitempty"`
	Failed  []byte `json:"failed,omitempty"`
}

// Patience is PatienceMS as a duration.
func (w *Will) Patience() time.Duration { return time.Duration(w.PatienceMS) * time.Millisecond }

// Words is what to send as last words: stopped or failed. It has the links for which there are any.
func (w *Will) Words(failed bool) Will {
	out := Will{PatienceMS: w.PatienceMS}
	for _, l := range w.Links {
		l.Payload = l.Stopped
		if failed {
			l.Payload = l.Failed
		}
		l.Stopped, l.Failed = nil, nil
		if len(l.Payload) > 0 {
			out.Links = append(out.Links, l)
		}
	}
	return out
}

func (w *Will) check() error {
	switch {
	case w == nil:
		return errors.New("there is none")
	case w.PatienceMS <= 0 || w.PatienceMS > MaxWillPatience.Milliseconds():
		return fmt.Errorf("patience of %d ms, want 1 ms to %v", w.PatienceMS, MaxWillPatience)
	case len(w.Links) > MaxWillLinks:
		return fmt.Errorf("%d links, want at most %d", len(w.Links), MaxWillLinks)
	}
	targets := 0
	for i := range w.Links {
		l := &w.Links[i]
		if l.Link == "" || len(l.Link) > maxLinkName || strings.ContainsFunc(l.Link, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
			return fmt.Errorf("%.40q is not the name of a link", l.Link)
		}
		if len(l.Payload) == 0 || len(l.Payload) > MaxWillPayload {
			return fmt.Errorf("datagram of %d bytes for %s, want 1 to %d", len(l.Payload), l.Link, MaxWillPayload)
		}
		if n := max(len(l.Stopped), len(l.Failed)); n > MaxWillWords {
			return fmt.Errorf("last words of %d bytes for %s, want at most %d", n, l.Link, MaxWillWords)
		}
		if targets += len(l.To); targets > MaxWillTargets {
			return fmt.Errorf("more than %d targets", MaxWillTargets)
		}
		for _, to := range l.To {
			if !to.Addr().Is4() || to.Port() == 0 {
				return fmt.Errorf("%s is not an IPv4 address and port", to)
			}
		}
	}
	return nil
}
