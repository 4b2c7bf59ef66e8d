package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is the processor time used until now, in clock ticks (proc(5)).
type usage struct {
	at        time.Time
	all, ours uint64
}

// measureUsage reads what all programs used and what this program, the lab's daemon and its machines did. Machines that
// have ended are in the daemon's account.
func measureUsage(daemon int, machines []int) usage {
	u := usage{at: time.Now(), all: busyTicks()}
	u.ours = processTicks(os.Getpid(), true) + processTicks(daemon, true)
	for _, pid := range machines {
		u.ours += processTicks(pid, false)
	}
	return u
}

// userHZ is what proc(5) counts in on Linux, whatever the kernel's own tick is.
const userHZ = 100

// others is the share of all processors that other programs used between two measurements, 0 to 1.
func others(from, to usage, cpus int) float64 {
	total := to.at.Sub(from.at).Seconds() * userHZ * float64(cpus)
	if total <= 0 {
		return 0
	}
	share := (float64(to.all-from.all) - (float64(to.ours) - float64(from.ours))) / total
	return min(max(share, 0), 1)
}

func busyTicks() uint64 {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var sum uint64
	for i, f := range strings.Fields(line) {
		const idle, iowait = 4, 5
		if n, err := strconv.ParseUint(f, 10, 64); err == nil && i != idle && i != iowait && i <= 8 {
			sum += n
		}
	}
	return sum
}

// processTicks is the time of a process, with that of its children that have ended.
func processTicks(pid int, children bool) uint64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), ") ") // the name may hold blanks
	f := strings.Fields(rest)
	const utime, cstime = 11, 14 // counted from the state
	last := utime + 1
	if children {
		last = cstime
	}
	var sum uint64
	for i := utime; i <= last && i < len(f); i++ {
		n, _ := strconv.ParseUint(f[i], 10, 64)
		sum += n
	}
	return sum
}

func load1() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	f, _, _ := strings.Cut(string(data), " ")
	n, _ := strconv.ParseFloat(f, 64)
	return n
}
