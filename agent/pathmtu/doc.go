// Package pathmtu finds how large a packet gets from this node to a peer over one link: what the MTU of both ports
// promises, or less, because a switch between them takes less and drops the rest without a word. Heartbeats are small
// and do not notice, the ledger and storage do, in the worst moment.
//
// # What it promises
//
//   - A packet of the port's full MTU is sent to each peer over each link now and then (Every), with the flag that forbids
//     fragments, and a small answer comes back. So each direction is known for itself.
//   - If none of a few arrives, but small ones do, the largest that does is searched. If small ones do not either, the
//     link is bad, which is not this package's matter: nothing is said.
//   - It costs a link one packet in Every, and some twenty in a search. Search and the wire format are pure.
//
// Asks and answers are authenticated by a key that is made of the members' heartbeat key. An answer is never larger than
// its ask, and goes to addresses of peers only.
package pathmtu
