// Package lldp is the Link Layer Discovery Protocol (IEEE 802.1AB-2016): what tells a port which switch, and
// which port of it, is at the other end of its cable.
//
// # What it promises
//
//   - Parse and Unit.Frame are the codec: pure, and safe with whatever a stranger sends. Text of a stranger has
//     no control characters in it and is bounded, so that it can be printed.
//   - A Table holds the neighbours of one port until their time to live has passed; a Schedule says when to speak.
//     Both are pure: the time is an argument.
//   - A Speaker does it: it speaks and listens on every port that it is given, each by a packet socket of its own,
//     bound to the port. So it works on a port that is part of a bond, too, whether it is the active one or not.
//
// Nothing of safety depends on it. LLDP is not authenticated: whoever is on the wire can say anything, which at
// worst is shown to a person.
//
// # When things fail
//
// A port whose socket cannot be opened is tried again every few seconds, and the others are not concerned. Frames that
// make no sense are counted and dropped. A flood costs a bounded share of one processor: the rest is dropped by
// the kernel, in the port's own queue.
package lldp
