package pid1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// AgentCgroup holds the agent and what it starts for itself. Everything in it is killed before an
	// agent is started.
	AgentCgroup = cgroupRoot + "/skein.agent"
	// ServicesCgroup is the parent of all containers. No process may be in it directly, only below.
	ServicesCgroup = cgroupRoot + "/skein.services"
)

// needed are the controllers that containers are limited by. The rest of those here are used when there.
var needed = []string{"cpu", "memory", "pids", "io"}
var welcome = []string{"cpuset", "hugetlb"}

// cgroups are the two groups under PID 1's care. The kill files stay open: the last resort must not
// depend on a path, on a free descriptor or on memory.
type cgroups struct {
	agent        *os.File // the directory, for clone3
	killAgent    *os.File
	killServices *os.File
}

func makeCgroups(logf func(string, ...any)) (*cgroups, error) {
	for _, dir := range []string{cgroupRoot, ServicesCgroup} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
		for _, c := range needed {
			if err := enable(dir, c); err != nil {
				logf("%v: containers run without that limit", err)
			}
		}
		for _, c := range welcome {
			_ = enable(dir, c) // not in every kernel, and nobody misses it
		}
	}
	if err := os.MkdirAll(AgentCgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	// The agent's heartbeats go out in time while services use every core. The default weight is 100.
	if err := writeFile(AgentCgroup+"/cpu.weight", "1000"); err != nil {
		logf("prefer the agent: %v", err)
	}
	var g cgroups
	for _, open := range []struct {
		file **os.File
		path string
		flag int
	}{
		{&g.agent, AgentCgroup, os.O_RDONLY},
		{&g.killAgent, AgentCgroup + "/cgroup.kill", os.O_WRONLY},
		{&g.killServices, ServicesCgroup + "/cgroup.kill", os.O_WRONLY},
	} {
		f, err := os.OpenFile(open.path, open.flag, 0)
		if err != nil {
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
		*open.file = f
	}
	return &g, nil
}

func enable(dir, controller string) error {
	if err := writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller); err != nil {
		return fmt.Errorf("enable cgroup controller %s: %w", controller, err)
	}
	return nil
}

// writeFile writes to a file of the kernel, which is never created or truncated.
func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// populated tells if any process is in the group or below. A group that cannot be read has none.
func populated(dir string) bool {
	data, err := os.ReadFile(dir + "/cgroup.events")
	return err == nil && strings.Contains(string(data), "populated 1")
}

// killAndWait kills a group and waits, for a bounded time, until it is empty: killed processes are gone
// from their group only when they have been through their exit.
func killAndWait(kill *os.File, dir string, limit time.Duration) error {
	if !populated(dir) {
		return nil
	}
	if _, err := kill.WriteString("1"); err != nil {
		return fmt.Errorf("kill %s: %w", filepath.Base(dir), err)
	}
	for end := time.Now().Add(limit); populated(dir); {
		if time.Now().After(end) {
			return fmt.Errorf("processes of %s are still there %s after they were killed", filepath.Base(dir), limit)
		}
		time.Sleep(2 * time.Millisecond) // cgroup.events can be polled, but this is over in one or two rounds
	}
	return nil
}
