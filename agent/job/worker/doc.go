// Package worker runs the tasks of one job on one node. It is a program of its own: the first process of a container of
// the job's image, or, where there are no containers, just a process. It is kept as long as the job has tasks here, so
// that a task costs a fork and not the start of a container.
//
// The agent writes to its standard input which tasks to run and reads from its standard output what came of them, as
// frames (frame.go). When the input ends the worker kills all and ends: a job never outlives its agent. What comes from
// a worker is not trusted: it runs with the image's user, in reach of the job's own tasks.
//
// A task is a process group. It gets its command, an empty standard input, and its number and input in the environment.
// When its first process ends, the rest of its group is killed; what left the group is killed with the container. The
// worker is a child subreaper and waits for all that end, so nothing stays as a zombie.
package worker
