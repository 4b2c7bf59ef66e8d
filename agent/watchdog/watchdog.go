// Package watchdog is the arithmetic of proof L3: a machine whose watchdog is bound to its membership resets
// itself, by hardware and whatever has become of its software, before the others may say that it has. PID 1 of
// the owner, its agent and the observers use these few functions and no numbers of their own.
//
// # What it promises
//
// A bound machine is fed only "until T", where T = s + Lease(W): s is when the agent sent the newest heartbeat
// that a majority of voters acknowledged, W the watchdog's timeout. If PID 1 feeds only when MayFeed says so,
// the machine is reset at T of its own clock at the latest. An observer that knows of a majority that has
// acknowledged nothing for longer than Expired(Lease(W)) knows that T has passed there (package member has
// that argument: it is proof L1 with another length).
//
// # Why feeding ends two bites before T
//
// A feed is two steps: look at the clock, then tell the watchdog. Between them PID 1 can be stopped, for any
// time, and on waking up it feeds, late. "now + W <= T" would be broken by that. What bounds it is the
// watchdog itself: it still counts from the feed before, and a machine that wakes up after its bite does not
// wake up. So the late feed comes before now + Bite(W), and the bite after it before now + 2 Bite(W). (Patroni's
// manual has the same: only W = ttl/2 is absolutely sure.)
//
// A worked timeline, W = 10 s, so Bite = 11.5 s, Lease = 38 s, Expired = 39.95 s; time is the owner's clock:
//
//	 0.0  the owner sends heartbeat s = 0; a majority has it at 0.01, the owner knows it at 0.1: T = 38.0
//	 0.1  the owner is cut off; nothing that it sends is acknowledged any more
//	 1.0  PID 1 feeds; and again at 2, 3, ... 14
//	15.0  PID 1 looks at its clock: 15.0 + 2*11.5 = 38.0 <= T, it may feed. It is stopped before it does
//	25.5  the watchdog, fed at 14.0, would bite now at the latest
//	25.4  PID 1 goes on, and feeds. It looks at its clock: 25.4 + 23 > T. Services are killed, it feeds no more
//	35.4  the watchdog bites; 36.9 at the latest, if it is as late as Late allows
//	38.0  T: the owner has been reset
//	39.96 an observer in the majority: it received s at 0.01 and acknowledged nothing since for 39.95 s: proof
//
// With clocks: the observer's fast by 1 %, the owner's slow by 1 %, T comes at 38.38 of true time, and the
// observer's 39.95 s have passed at 39.56 after 0.01.
//
// # What it rests on, and what breaks it
//
//   - The watchdog counts on its own and needs nothing of the kernel. softdog is a timer of the kernel: a
//     kernel that hangs with interrupts off is not reset. So softdog is proof only by the operator's leave.
//   - It is late by Late(W) at most. i6300esb counts 1,024 ticks of 1.007 kHz as a second, 1.7 % late; iTCO
//     counts in steps of 0.6 s.
//   - Nobody else feeds it: PID 1 holds the device open, and the kernel lets only one in. Firmware that feeds it
//     in system management mode, and a driver that feeds by itself while nobody does, would break this proof;
//     'skein fence watchdog' says that it is to be tried once.
//   - A virtual machine's watchdog is its emulator. One that is paused with its clock standing, and then goes on,
//     lives on by as long as it stood, as package member says of leases. One that is stopped with its clock
//     running (SIGSTOP) is reset in the first moments after it goes on.
package watchdog

import "time"

const (
	// Slack is for how long a bound machine may go without a new acknowledgement before it feeds no more. An
	// agent that is restarted must get its acknowledgements back within it: its peers wait 8 s for that.
	// Longer forgives longer losses of the majority; the proof, and every takeover that waits for it, comes
	// later by as much.
	Slack = 15 * time.Second

	lateFixed  = time.Second
	latePart   = 20 // one part in twenty, 5 %
	graceFixed = time.Second
	gracePart  = 40 // 2.5 %: two clocks that are each wrong by 1 % differ by 2.02 %
)

// Late is how much later than its timeout w a watchdog may bite: its clock is not a good one, its steps are
// coarse.
func Late(w time.Duration) time.Duration { return w/latePart + lateFixed }

// Bite is the longest time from a feed to the reset.
func Bite(w time.Duration) time.Duration { return w + Late(w) }

// MayFeed tells whether a watchdog of timeout w may be fed at now by a machine that must be dead at until,
// both on its own clock.
func MayFeed(now, until, w time.Duration) bool { return now+2*Bite(w) <= until }

// Lease is for how long after the sending of a heartbeat that a majority acknowledged a bound machine may live.
func Lease(w time.Duration) time.Duration { return Slack + 2*Bite(w) }

// Expired is how long nothing may have been acknowledged, on an observer's clock, to prove that a machine bound
// to this lease has been reset.
func Expired(lease time.Duration) time.Duration { return lease + lease/gracePart + graceFixed }
