// Package scenario is the language of Skein's fault scenarios: a text file of steps and of what is
// expected after them, which the simulator (agent/sim) and the lab (skein lab play) run alike. It parses
// a file, plays it on a Stage, records what happened on a timeline and draws that.
//
// It promises that a script which parses can be played to its end: every name is a node of the cluster or
// a service deployed before, every number is within its bounds, every word means something, and an error
// names the line and says what would be right. The printer's text parses to the same script. Whatever the
// file holds, nothing is played longer than Longest.
//
// # The language
//
// One step a line, # begins a comment. A first line "# fault N" says which fault of the catalogue it is
// (tests/scenarios/catalogue.tsv), a second line "# in part: REASON" what of its outcome is not shown.
//
//	nodes 3 [seed 7] [voters 3] [clusterdisk]      the first step: the cluster; its ledger is on a cluster disk
//	deploy NAME [replicas N] [address A] [safety lease|power] [global] [memory GIB] [volume] [spec HASH]
//	remove NAME
//	settle                                         until all runs that should, and what follows is measured anew
//	wait 2s
//	power off|on NODE                              the cable out, and in
//	reboot NODE [fast]                             fast: back before its silence means anything
//	panic NODE                                     its kernel ends, and starts anew
//	freeze NODE standing|running    thaw NODE      what its clock does meanwhile
//	clock NODE +24h|-24h                           its wall clock jumps
//	agent stop|start NODE
//	link NODE eth0|eth1|all up|down [in|out]       in, out: only that direction
//	flap NODE eth0|eth1|all PERIOD for D           down for half a period, up for the other half
//	partition NODE... [| NODE...]...               these groups, and all others
//	cut NODE NODE    cut NODE -> NODE              this pair, or one direction of it
//	heal                                           undoes all of the network's faults
//	loss PERCENT [jitter D]                        of datagrams, on all links
//	copies PERCENT    corrupt PERCENT              of datagrams: arrive twice; have a flipped bit
//	fail NAME                                      an instance gives up on its node
//	hang NAME                                      its instances do not end when told, until their node does
//	drain NODE    undrain NODE    confirm NODE     an operator: empty it, use it again, it is off
//	bmc NODE ok|lie|hang|refuse|slow               gives it a power controller that behaves like that
//	path NODE NAME up|down                         its way to the disk of the service's volume
//	disk NAME restarts|forgets|slow|gone|ok|foreign   what that disk does: a restart that keeps its registrations,
//	                                               one that forgets them, ..., a host registers that is no member
//	coordinator NODE                               it leads from now on; what follows is measured anew
//	repeat N ... end                               the steps between, N times
//	expect NAME on NODE[|NODE...]                  all that runs of it runs there, and some does
//	expect NAME nowhere
//	expect node NODE joining|online|draining|drained|lost
//	expect outage NAME <|> D                       the longest since the last settle
//	expect takeovers [<] N                         since then too
//	expect reboot NODE    expect no reboot NODE     of its own or another's doing: its boot is another one, since then too
//	expect event TEXT    expect no event TEXT      since the settle before the last step that did something
//	expect writes NAME    expect no writes NAME    to its volume, acknowledged, in the next second
//	expect pending NAME TEXT                       why the coordinator cannot place it
//
// NODE is a name (n1, n2, ...), or that of a service, which means the node that answers for it, or
// "coordinator", or "that": the node that was meant last.
package scenario
