// Package pid1 is the first process of a node. It is small on purpose and knows nothing of the cluster: it
// makes the machine usable (mounts, modules, cgroups, consoles), arms the watchdog in the first moments,
// runs the agent as a child of the same binary, reaps every orphan, and is the last resort that stops all
// services or the machine.
//
// # What holds
//
//   - The watchdog is fed only while the agent says that it is well (control.Feed), or within a bounded
//     grace while it starts. How long is decided in one place without a clock of its own, guard.
//   - Once the agent has bound the watchdog (control.Bind), it is fed only so that the machine is off at the
//     time that was named last: by an agent that cannot name a later one, and without an agent, it ends then.
//     Nothing but a later Bind, or Unbind, of the agent changes that; see package watchdog.
//   - An agent that ends, for whatever reason, is started again with back-off. The services never notice:
//     they live in their own cgroup, and their exits are kept for the next agent. What the dead agent left
//     behind in its own cgroup (half-done helpers) is killed before the next one starts, so that two
//     generations never work at the same time. A process that is to outlive the agent therefore belongs
//     in a cgroup below ServicesCgroup.
//   - When an agent ends by itself, its peers are told so by datagrams that it had left with PID 1 for this
//     case (control.Will), at once and every 0.3 s, until the next agent leaves its own. Never when the
//     machine is being stopped or the services were killed. PID 1 does not know what they say, and reads
//     nothing from the network.
//   - When this boot ends for certain, they are told that too: after the agent's end in an orderly stop, and
//     when PID 1 panics. Both are last words that the agent left with its will.
//   - Only one goroutine starts and reaps processes, so an exit can never be seen before the process is
//     known. Nothing in PID 1 may use os/exec: its Wait would race with the reaper.
//   - The goroutine that feeds the watchdog writes to nothing that can block: consoles and the agent's log
//     have a goroutine of their own that drops lines rather than waits.
//   - The agent's own output goes to one pipe that PID 1 holds open for good. A process that inherited it
//     can outlive the agent without dying of SIGPIPE.
//
// # What happens on failure
//
// A panic in any goroutine of PID 1 writes its reason to the kernel log, tells the other nodes and restarts the machine
// at once;
// when the Go runtime itself gives up, the kernel panics and restarts by kernel.panic. A hang of PID 1 ends
// in a reset by the watchdog. A hang of the agent ends in one kill of all services, then no more feeding, then
// a reset; if the watchdog does not bite (or there is none), PID 1 restarts the machine itself. An orderly stop
// that takes longer than its cap becomes a forced one.
//
// # The root file system
//
// The kernel unpacks the initramfs into its rootfs, from which pivot_root is refused: containers would not
// start. Copying everything to a second tmpfs would double the memory for a moment and cost time; instead the
// rootfs, which is a tmpfs already, is bound to itself and PID 1 changes root into that mount. See enterRoot.
package pid1
