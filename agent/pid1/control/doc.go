// Package control is the conversation between PID 1 and the agent: one JSON object a line over a
// stream socket that the agent inherits from PID 1.
//
// The agent sends Requests: that it is well (which keeps the machine's watchdog fed), that the machine
// must restart or power off, that every service must stop at once, and its will: datagrams for PID 1 to send
// when the agent has ended, made by the agent because PID 1 knows nothing of what is in them. PID 1 sends Events: each orphan that it
// reaped, which is how the agent learns that a container ended.
//
// What holds:
//
//   - A new agent first receives the last exits that PID 1 remembers (History of them at most), then one
//     Replayed, then exits as they happen. So an exit is not lost because the agent was down when it
//     happened; it may be seen twice by the same machine's successive agents.
//   - A line is at most MaxLine bytes. Longer or malformed lines are reported by the reader as a
//     *LineError and skipped; the conversation goes on. Fields that the reader does not know are ignored,
//     so that the two ends may be of different versions for the moment of an upgrade.
//   - When the conversation breaks (io.EOF at the agent), PID 1 has given the agent up: it should exit.
//     An agent that does not read loses nothing until PID 1's queue to it is full, and is then killed and
//     started anew.
package control
