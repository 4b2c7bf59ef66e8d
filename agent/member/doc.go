// Package member is how nodes know of each other from one tenth of a second to the next: who is heard,
// on which link, and until when a node may believe that it is still part of the cluster. It is a pure
// core: no socket, no goroutine, no clock. The driver calls Tick about every 25 ms and sends what it
// returns, calls Step for each datagram received, and reads View.
//
// # What it promises
//
//   - A node that falls silent on all links is reported not Alive after Config.Silent, one that is
//     silent on one link, or heard but not hearing, is told apart from that.
//   - Lease: at any moment at which one member has LeaseExpired for an incarnation (node, boot), that
//     incarnation's own View.LeaseUntil has passed, for ever. This is proof L1 of DESIGN.md, the one that
//     lets another node answer on its floating addresses.
//   - For promises that are longer than a lease (a watchdog's, package watchdog), PeerView.UnackedFor is the
//     same age as a number. As voters may change in so long a time, it starts anew with each change of them:
//     within it the voters were the same throughout, and two majorities of the same voters share one.
//
// It decides nothing: that a node is lost is a commit in the ledger, made by the coordinator and told to
// every Core by Refuse.
//
// # The lease
//
// A heartbeat carries the time at which it was sent, on the sender's clock, as its sequence number. A
// member acknowledges by echoing the newest it received. The owner's lease runs until
//
//	(newest send time that a majority of voters echoed) + Lease
//
// An owner counts from the moment of sending, so however slow the network was, each voter of that
// majority received the heartbeat later than the owner started to count. A voter that is told to refuse
// an incarnation never echoes anything newer of it, and says so in each of its own heartbeats, with the
// age of the newest heartbeat that it may have echoed, counted from its receipt. An observer has proof
// when a majority of voters say so and each of those ages, grown by the time since they were received,
// exceeds Lease*1.01 + 50 ms. Two majorities share a voter; that voter received the heartbeat after it
// was sent and lets the age grow from there. So the owner's lease ended first, if no two clocks differ
// in rate by more than 1 % and 50 ms.
//
// A worked timeline, Lease 800 ms, threshold 858 ms (voters A, B, C; C is the owner; time is real time):
//
//	  0  C sends heartbeat s=0, then all its links die
//	 10  A and B receive it
//	 50  A's next heartbeat echoes s=0: never arrives, or does; C's lease ends at 800 either way
//	410  A and B: C is silent (400 ms since receipt); the coordinator commits "C is lost in boot c1"
//	430  A and B are told Refuse(C, c1): they will not echo c1 again. Age at both is 420 ms
//	500  A's heartbeat to B: refused, age 490 ms
//	800  C's lease ends: the kernel's guard drops its floating addresses
//	868  A: own age 858; B's statement of 500 has grown to 858: nearly
//	869  A has proof. 61 ms lie between C's end and A's start at least
//
// # What it rests on, and what breaks it
//
//   - The clock passed in must be CLOCK_BOOTTIME: it goes on during a suspend, rises for the life of the
//     boot and is shared by an agent that was restarted. Virtual machines whose clock stands still while
//     they are paused and then go on break the lease (not the other proofs): the guard ends late by the
//     length of the pause.
//   - Refusals are kept for the life of a Core. An agent that was restarted makes a new Core in the same
//     boot: it must read the ledger linearizably and call Refuse for every lost incarnation before its first
//     SetPeers, because before SetPeers nothing is acknowledged.
//   - A new Core does not know what it echoed before: it counts ages from when it was made a voter and from
//     when it was told of the peer, whichever is later.
//   - An acknowledgement counts only between two members that hold the same set of voters (a digest of it
//     is in each heartbeat). Change voters one at a time, and the next one when View.Disagree is empty.
//     As a second line, any member that is heard, does not refuse and did hear the incarnation within the
//     threshold vetoes the proof.
//   - Datagrams are authenticated by a key that all members share: a member that lies can break all of this.
//
// # A restarted agent
//
// An agent that crashes takes its heartbeats with it, but not the node: kernel, containers and PID 1 go on,
// and a new agent is there after 0.3 s on a real machine, 2 to 4 s on an emulated one. So that the node is
// not given up meanwhile, each agent leaves a will with PID 1 (Core.Will), made anew every second: ready
// datagrams that say "the agent of this boot has ended". PID 1 sends them when the agent has died.
//
// A will changes one thing: for Config.Patience from its receipt the silence of that incarnation is no
// suspicion, neither our own nor in what we tell others (PeerView.RestartingUntil, the silent flag). Safety
// does not depend on it:
//
//   - It acknowledges nothing, echoes nothing and is no sign of life: Step returns before it touches
//     anything that leases, proofs or View.Alive are made of. The lease of the dead agent's addresses ends
//     by itself in the kernel, counted from its last heartbeat that was acknowledged. Proof L1 reads neither
//     wills nor suspicions; a test plays the same history with and without wills and compares both.
//   - It cannot bring an incarnation back: of one that is refused, gasped or was replaced by a new boot it is
//     not taken.
//   - All that it can do is delay the suspicion of a node that is really dead (its power is cut while its
//     agent restarts), by Patience at most: repetitions do not renew it, and all restarts within 30 s share
//     one Patience. A recorded will is of no use once the boot was heard 3 s later, or has ended, or a newer one
//     was taken.
//
// The new agent is told from late heartbeats of the old one by its count, which begins anew.
//
// # Last words
//
// A boot that ends says so, so that nobody waits for its silence. There are three kinds of last words:
//
//   - A gasp (Core.Gasp) is a hint. A new agent of the same boot takes it back by being heard.
//   - What PID 1 sends for an agent that is no more (Core.LastWords): a hint too, that nothing takes back. PID 1
//     sends it when it knows that no agent will be started in this boot any more: in an orderly stop after
//     the agent's end, and when it panics. It says nothing about addresses: the kernel's guard may still be
//     open, until the lease ends, and PID 1, which knows nothing of the cluster, cannot close it.
//   - A farewell (Core.Farewell) is proof L1 by itself.
//
// Why a farewell is proof. What L1 has to exclude is that the incarnation's guard is open now or ever again. A
// Core opens it only by its lease, and Farewell ends that for good (View.LeaseUntil is 0 from then on). Its
// caller has closed the kernel's guard before, and the kernel has acknowledged it (balance.Hold of no addresses
// has returned without an error). There remains another agent of the same boot: the caller has first left a mark in
// the state of this boot, which every agent reads before it becomes a member and ends the boot if it finds it. So
// each step makes the next one safe, in an order that holds if it is cut off anywhere: mark, close, say. If the
// mark or the closing fails, there is only a gasp. No clock is in it, so no lost, copied or delayed farewell
// says anything false: if it arrives at all, whenever, it is still true. It is proof of the lease and of no
// more: processes may run on for the seconds until PID 1 has killed them, so services whose safety is power go on
// waiting for the power to be off, or for the next boot.
//
// A kernel that panics says nothing: there is no user space any more. It is found by its silence.
//
// # Strangers
//
// Each datagram carries the cluster and a truncated HMAC-SHA256; per sender's boot and link only rising
// sequence numbers are taken, so that copies, replays and late arrivals are dropped. A different boot of a
// known node counts (PeerView.NewBoot) only if it echoes what this very Core sent in the last ten
// seconds: a recording of an earlier boot cannot.
//
// A Screen does the same checks where datagrams are received, so that a flood of them costs the Core nothing.
package member
