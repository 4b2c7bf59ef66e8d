package pid1

import "github.com/skein-os/skein/agent/pid1/control"

// wordsTimes is how often last words are sent: a datagram may be lost.
const wordsTimes = 3

// words are the last words that the newest agent left: what it is not there to say itself when this boot ends. They
// do not age, and hold whatever was done to the services.
type words struct {
	left control.Will
	said bool
}

// sayStopped tells the other nodes that this boot ends, once no agent runs any more: it may have been down
// already, waited for by its peers, or it had to be killed.
func (s *supervisor) sayStopped() {
	w := s.words.left.Words(false)
	if s.words.said || len(w.Links) == 0 {
		return
	}
	s.words.said = true
	for i := range wordsTimes { // at once: what follows may take no time at all
		if err := s.world.SendWill(w); err != nil && i == 0 {
			s.world.Logf("tell the other nodes that this one is being stopped: %v", err) // by the other links they were
		}
	}
}
