// Package multipath makes one block device of all paths to a disk, by the kernel's dm-multipath and without multipathd
// or udev, and looks after it: it checks paths, takes them out, puts them back, and ends waiting when it has lasted
// too long.
//
// Core decides. It has no I/O, no goroutine and no clock. Map does: one goroutine for a map and one for each check
// under way, of which a path has one at most. DM speaks to the kernel, SCSI to the disk.
//
// What it promises:
//   - A path is in use only after a check that began after its last failure said that it works and leads to the
//     disk with the map's worldwide name (VPD page 0x83, through the path itself), and after Admit agreed since then. A
//     path that shows another disk leaves the map at the next check; writes between the target's change and that
//     check go to the other disk, which is why LUNs must not be handed on under a mounted map.
//   - A command that hangs holds up nothing but the check of its own path.
//   - While no path works, I/O waits for Settings.QueueFor and then fails; when a path is back, it waits again.
//   - The set of paths, their order and the disk's length change under a mounted file system, which sees nothing but a
//     pause: a new table waits for the commands under way on the old one. So paths that come and go are marked by
//     messages, and a table is loaded only for a path to add or drop, another order of groups, or a longer disk.
//   - The map outlives the agent. The next one adopts it with the paths that worked, finds the others out by
//     checking, and completes a change that was begun.
//
// # Reservations through the map
//
// The kernel sends a REGISTER for the map down every path, one after another, and RESERVE, RELEASE, PREEMPT and CLEAR
// down one path, whichever it uses at the moment (dm_pr_ops in drivers/md/dm.c). A path that
// fails in between leaves some paths registered and some not. So registrations are not made through the map here:
// Admit registers each path by its own device (package reserve), and what is asked of the disk as a whole goes
// down such paths too. A refused write (EBADE, reservation conflict) goes straight to the writer: the kernel neither
// fails the path for it nor tries another, and Core does not hear of it.
//
// # Writes that wait, and a fence
//
// With all paths gone, writes wait in the map, and others may be in a command that has no answer yet. If the node is
// fenced meanwhile, its registrations are gone at the target. When a path is back, its check works (TEST UNIT
// READY needs no registration), and Admit is asked. Within the same claim it must refuse: the key that the disk took
// away is not registered again. Even if a path were used, the waiting writes would end with EBADE.
//
// But the same node may win a new claim and register again, on the same nexus: then nothing at the disk tells the old
// claim's waiting writes from new ones, and they would land on what somebody else wrote in between. So between two
// claims, without exception and also after a restart of the agent:
//
//	FailQueue  no path is used any more, what waits fails, admissions end
//	(unmount; end who has the device open: the page cache holds old writes too)
//	Drain      waits until commands under way have ended, and leaves a table without paths
//	Open       refuses as long as anybody has the device open; from here on Admit registers the new key
//
// If Drain does not end in time, nothing is proven and the claim must not go on: a target that holds a command
// back can still execute it.
package multipath
