// Package cabling is the truth about a node's cables: which ports it has, what is at the other end of each, and
// what of it is wrong.
//
// # What it promises
//
//   - Watch follows the ports by netlink and /sys, and their neighbours by LLDP (package lldp), whatever addresses,
//     bonds or VLANs are on them. A change is told within a moment; what has not changed is not told.
//   - Faults and News are pure: what is wrong with a node's cabling, and what has happened to it between two looks, in
//     sentences that name port and switch.
//
// # When things fail
//
// A neighbour that falls silent is kept as the one that was heard last, so that the news of a dead cable can say where
// it was. What no switch says by LLDP is not known, and nothing is said to be wrong with it. A stack of switches that
// calls itself one chassis is taken for one.
package cabling
