// Package admission is how a machine becomes a member: fresh machines find each other and one of them
// founds the cluster (Formation), later ones, and those that rebooted, join through any member (Server,
// Join). An operator gets a certificate the same way.
//
// It promises: a machine without the token is never admitted and never learns anything but the
// cluster's existence; a machine is never talked into joining somebody else's cluster, not even by a man
// in the middle; of the machines that hold one seed no two found a cluster in the same set of boots, if
// Expect is more than half of them, whatever is lost or delayed; a name belongs to one machine until
// that machine is known to be off, and to one boot of it while that is heard; a node that comes back in a
// new boot has its old number and a higher epoch.
//
// When things fail: who is not admitted is told why in a sentence, and the cluster has an event of it;
// nothing was written. Formation that cannot go on waits and says for what.
//
// The protocol, and what was turned down: docs/design/admission.md.
package admission
