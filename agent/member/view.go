package member

import (
	"time"
)

// View is what a Core knows at one moment.
type View struct {
	// LeaseUntil: this node may answer on guarded addresses until then, on the clock passed in. 0: no lease.
	LeaseUntil time.Duration
	Majority   bool // a majority of voters heard us within Silent
	// Acked is when the newest heartbeat was sent that a majority of voters acknowledged. 0: none was, or this
	// boot has ended.
	Acked time.Duration
	// RefusedBy are members that refuse this very incarnation: the ledger says that it is lost, and this
	// node has not read it yet.
	RefusedBy []string
	// Disagree are the members heard that hold another set of voters than we do. They get no lease from
	// us, nor we from them; it must be empty before the voters are changed again.
	Disagree []string
	Peers    []PeerView // sorted by name
}

// PeerView is what is known of the committed incarnation of a peer.
type PeerView struct {
	Name, BootID string
	Alive        bool          // heard within Silent, did not gasp, is not refused
	SilentFor    time.Duration // since it was heard on any link (or became known); our own stalls do not count
	Gasped       string        // its last words, empty if there are none
	// Ordered: by its last words its end was asked for. A node whose PID 1 failed says that instead.
	Ordered bool
	// Dark: it said farewell, so it answers on no guarded address, and never will again. LeaseExpired is then
	// proven, too.
	Dark bool
	// RestartingUntil: its agent has ended, its kernel and services have not, and until then (on the clock
	// passed in) it is not suspected for its silence. In the past: its agent did not come back in time. 0:
	// nothing of the kind. It says nothing about leases.
	RestartingUntil time.Duration
	// DeafFor: it is heard, and has said for so long that it hears nobody on any link. Then it has no lease, or
	// soon none: nobody's acknowledgement reaches it. 0: it hears somebody, or is not Alive.
	DeafFor time.Duration
	// Busy: it hears nobody, but other frames reach it: heartbeats may be held up behind them.
	Busy bool
	// ConfirmedSilent is how many members, self included, currently report it silent.
	ConfirmedSilent int
	// Unheard: so many voters report it silent that no majority of them can hear it. Until then it may hold a
	// lease, whoever else misses it.
	Unheard      bool
	Links        []LinkView // as committed, one for each local link
	LeaseExpired bool       // proof L1: this incarnation has no lease and never will again
	// UnackedFor is for how long at least no majority of voters has acknowledged a heartbeat of it, and none
	// ever will again; 0 unless a majority of them refuse it. It is counted from the last change of the voters
	// at most. What the incarnation promised to end so long after an acknowledgement has ended (proof L3).
	UnackedFor time.Duration
	NewBoot    string // another boot of this node that lives, heard and authenticated
}

// LinkView is one link between us and a peer, in both directions.
type LinkView struct {
	Link        string
	Receiving   bool          // we heard it there within Silent
	Sending     bool          // it says that it heard us there within Silent
	LossPercent int           // of the last 64 heartbeats, the worse direction
	RTT         time.Duration // 0: not known
	// Flapping: it goes up and down, and is held for that (see Events). What is above is true all the same, now.
	Flapping bool
}

// View returns the state at now.
func (c *Core) View(now time.Duration) View {
	c.wake(now)
	v := View{Majority: c.heardByMajority(now), Acked: c.acked(), Peers: make([]PeerView, 0, len(c.peers))}
	if c.leaseUntil > now {
		v.LeaseUntil = c.leaseUntil
	}
	for i, p := range c.peers {
		alive := c.alive(now, p)
		if alive && p.refusesUs {
			v.RefusedBy = append(v.RefusedBy, p.Name)
		}
		if alive && p.ever && p.voterSet != c.voterSet {
			v.Disagree = append(v.Disagree, p.Name)
		}
		deafFor := time.Duration(0)
		if alive && p.deaf {
			deafFor = max(now-p.deafSince, 1)
		}
		silent, silentVoters := c.confirmedSilent(now, i)
		v.Peers = append(v.Peers, PeerView{
			DeafFor: deafFor, Busy: deafFor > 0 && p.busy,
			Name: p.Name, BootID: p.BootID,
			Alive: alive, SilentFor: c.silentFor(now, p), Gasped: p.gasped,
			Ordered: p.gasped != "" && p.ordered, Dark: p.dark,
			RestartingUntil: c.restartingUntil(p),
			ConfirmedSilent: silent,
			Unheard:         silentVoters > c.voters-c.majority(),
			Links:           c.linkViews(now, p),
			LeaseExpired:    c.prove(now, i),
			UnackedFor:      c.unackedLong(now, i),
			NewBoot:         p.newBoot,
		})
	}
	return v
}

func (c *Core) alive(now time.Duration, p *peer) bool {
	return c.silentFor(now, p) <= c.cfg.Silent && p.gasped == "" && !c.refusing[p.inc]
}

// confirmedSilent counts the members that report peer number x silent, and the voters among them.
func (c *Core) confirmedSilent(now time.Duration, x int) (members, voters int) {
	say := func(voter bool) {
		members++
		if voter {
			voters++
		}
	}
	if c.suspects(now, c.peers[x]) {
		say(c.selfVoter)
	}
	for i, v := range c.peers {
		if i != x && v.says[x].silent && c.alive(now, v) {
			say(v.Voter)
		}
	}
	return members, voters
}

func (c *Core) linkViews(now time.Duration, p *peer) []LinkView {
	out := make([]LinkView, 0, len(p.Links))
	for _, l := range p.Links {
		id, known := c.linkIDs[l.Link]
		if !known || hasLink(out, l.Link) {
			continue
		}
		lv := LinkView{Link: l.Link}
		if st := p.evs[l.Link]; st != nil {
			lv.Flapping = st.flap.held
		}
		if rx := p.on[l.Link]; rx != nil {
			lv.Receiving = c.awake(now)-rx.heardAt <= c.cfg.Silent
			lv.LossPercent = int(p.rx[rx.link].loss())
		}
		lv.Sending = p.ever && c.silentFor(now, p) <= c.cfg.Silent && p.hearsUsOn&(1<<id) != 0
		if tx, ok := p.tx[id]; ok {
			lv.LossPercent = max(lv.LossPercent, int(tx.loss))
			lv.RTT = tx.rtt
		}
		out = append(out, lv)
	}
	return out
}

func hasLink(views []LinkView, link string) bool {
	for i := range views {
		if views[i].Link == link {
			return true
		}
	}
	return false
}
