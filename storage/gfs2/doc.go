// Package gfs2 is the driver of storage/shared for GFS2 on the kernel's distributed lock manager (DLM), with Skein in
// the place of corosync and dlm_controld.
//
// What is done to the kernel is decided in steps.go, without I/O: directories and files of configfs and sysfs,
// in order. Driver carries that out, listens to the kernel's events, and runs mkfs.gfs2, fsck.gfs2, gfs2_grow and
// gfs2_jadd.
//
// # How the kernel is spoken to
//
// The interface is the one that dlm_controld uses. It is not documented as stable: the rules here were read in
// Linux 6.1 (fs/dlm/config.c, member.c, lockspace.c; fs/gfs2/lock_dlm.c) and are held up by tests on the pinned
// kernel.
//
//   - /sys/kernel/config/dlm/cluster/comms/ID is a node's address. /sys/kernel/config/dlm/cluster/spaces/NAME/nodes/ID
//     makes it a member of a lockspace, which is the lock manager of one file system. Both are read when the lockspace
//     is started.
//   - /sys/kernel/dlm/NAME/control: 0 stops the lockspace, and returns when no locking is under way; 1 starts it.
//     All members must have stopped before one starts, or they wait for each other's old answers for ever.
//   - mount(2) and umount(2) make a lockspace join and leave. They say so by the events "online" and "offline" and
//     sleep, unkillable, until event_done is written.
//   - With recover_callbacks, the DLM tells GFS2 which journals to replay, and GFS2 keeps all locks blocked until
//     that is done; the members agree on who does it by a lock of their own. Nothing else is needed from here, and
//     GFS2's older interface (lock_module/block, recover) is not used.
//   - A member that is removed while its comms entry is there, as old as it was when the member was added, has left: its
//     journal is NOT replayed. So the entry of a failed one goes before the lockspace is started, on every member.
//   - Lockspaces exist only while somebody has /dev/dlm-monitor open. When the last one closes it, the kernel stops
//     them all: if the agent dies, the file systems of this node stand still until the next one has gone through a
//     change of generation.
//
// # Locks of programs
//
// flock(2) is held across nodes, by the DLM itself. fcntl(2) locks of byte ranges are not: the kernel hands them to a
// program by /dev/dlm_plock, and would wait for an answer for ever. Driver answers at once that there are none
// (ENOLCK), so a program that needs them fails at its start and in clear words, instead of taking a lock that another
// node does not see. F_GETLK is answered so, too.
package gfs2
