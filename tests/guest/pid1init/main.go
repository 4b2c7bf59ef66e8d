// Command pid1init is the init of test machines: the real PID 1 of package pid1, with an agent that plays the
// scenario named on the kernel's command line (skein.test=NAME) and prints what it finds as lines that start
// with TEST. The shipped skeind has nothing of this.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/pid1"
	"github.com/skein-os/skein/agent/pid1/control"
)

func main() {
	if os.Getpid() == 1 {
		pid1.Run(pid1.Config{
			Limits: pid1.Limits{Feed: 3 * time.Second, Watchdog: 4 * time.Second},
			World:  func(w pid1.World) pid1.World { return saboteur{w} },
		})
	}
	var err error
	switch os.Args[1] {
	case "agent":
		err = agent()
	case "sleep": // a service: runs until it is killed
		err = sleep()
	case "orphan": // ends once its parent has
		err = orphan()
	case "pivot":
		err = pivot()
	}
	if err != nil {
		report("error", err)
		os.Exit(1)
	}
}

func report(key string, value any) { fmt.Printf("TEST %s=%v\n", key, value) }

// saboteur breaks PID 1 when the agent asks for it by making a file.
type saboteur struct{ pid1.World }

const (
	panicFile = pid1.RunDir + "/panic"
	hangFile  = pid1.RunDir + "/hang"
)

func (s saboteur) Reap() []pid1.Ended {
	if exists(panicFile) {
		panic("asked for by the test")
	}
	if exists(hangFile) {
		select {}
	}
	return s.World.Reap()
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func scenario() string {
	data, _ := os.ReadFile("/proc/cmdline")
	for word := range strings.FieldsSeq(string(data)) {
		if name, ok := strings.CutPrefix(word, "skein.test="); ok {
			return name
		}
	}
	return ""
}

func agent() error {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return err
	}
	report("agent_start_ms", ts.Nano()/1e6)
	conn, err := control.Open()
	if err != nil {
		return err
	}
	if err := conn.Feed(); err != nil {
		return err
	}
	boot, err := os.ReadFile(pid1.ReportPath)
	if err != nil {
		return err
	}
	report("boot", strings.Join(strings.Fields(string(boot)), ""))
	name := scenario()
	report("scenario", name)
	play, ok := map[string]func(*control.Conn) error{
		"boot": playBoot, "restart": playRestart, "panic": playPanic, "hang": playHang,
		"starve": playStarve, "stubborn": playStubborn,
	}[name]
	if !ok {
		return fmt.Errorf("no scenario %q", name)
	}
	return play(conn)
}

// playBoot looks at the machine and powers it off in order.
func playBoot(conn *control.Conn) error {
	for _, f := range []string{"VmRSS", "RssAnon", "VmHWM"} {
		report("pid1_"+f, field("/proc/1/status", f))
	}
	meminfo := func(f string) string { return field("/proc/meminfo", f) }
	report("mem_total", meminfo("MemTotal"))
	report("mem_free", meminfo("MemFree"))
	own, _ := os.ReadFile("/proc/self/cgroup")
	report("cgroup", strings.TrimSpace(string(own)))
	report("oom_score_adj", read("/proc/self/oom_score_adj"))
	_, ignored, _ := strings.Cut(read("/proc/self/status"), "SigIgn:\t")
	report("ignored_signals", strings.Fields(ignored)[0])
	report("controllers", read(pid1.ServicesCgroup+"/cgroup.subtree_control"))
	report("panic", read("/proc/sys/kernel/panic"))
	for _, f := range []string{"/dev/null", "/dev/console", "/dev/ptmx", "/dev/pts/ptmx", "/dev/shm", "/dev/fd/0", "/run/skein", "/proc/1/exe"} {
		if !exists(f) {
			report("missing", f)
		}
	}
	root := exec.Command("/proc/self/exe", "pivot")
	root.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := root.CombinedOutput()
	report("pivot", strings.TrimSpace(string(out)))
	if err != nil {
		return err
	}
	return poweroff(conn, "the test is over")
}

// pivot does what an OCI runtime does for a container.
func pivot() error {
	dir, err := os.MkdirTemp("/run", "root")
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "") },
		func() error { return unix.Chdir(dir) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("pivot_root: %w", err)
		}
	}
	entries, err := os.ReadDir("/")
	fmt.Printf("entries:%d", len(entries))
	return err
}

const stateFile = pid1.RunDir + "/test-state"

// playRestart is two generations. The first starts a service, an orphan that ends when the agent does, and a
// helper, and is killed. The second looks what became of them.
func playRestart(conn *control.Conn) error {
	data, err := os.ReadFile(stateFile)
	if err != nil {
		service, err := start(pid1.ServicesCgroup+"/one", "sleep")
		if err != nil {
			return err
		}
		last, err := start(pid1.ServicesCgroup+"/two", "orphan")
		if err != nil {
			return err
		}
		helper, err := start("", "sleep")
		if err != nil {
			return err
		}
		if err := os.WriteFile(stateFile, fmt.Appendf(nil, "%d %d %d", service, last, helper), 0o600); err != nil {
			return err
		}
		return unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	var service, last, helper int
	if _, err := fmt.Sscan(string(data), &service, &last, &helper); err != nil {
		return err
	}
	// The orphan ended while there was no agent, or just when the second one came: its exit is in the replay, or
	// follows it, and comes once.
	var seen, after int
	replayed := false
	killed := false // what was left of the first agent
	for !replayed || seen == 0 {
		e, err := conn.Receive()
		if err != nil {
			return err
		}
		switch {
		case e.Op == control.Replayed:
			replayed = true
		case e.PID == last && e.Code == 9:
			seen++
		case e.PID == helper && e.Signal == int(syscall.SIGKILL):
			killed = true
		}
	}
	report("orphan_exits_seen", seen)
	report("helper_killed", killed)
	report("service_lives", unix.Kill(service, 0) == nil && strings.Contains(read(fmt.Sprintf("/proc/%d/cgroup", service)), "skein.services/one"))
	// An exit as it happens, by the last resort.
	if err := conn.StopServices(); err != nil {
		return err
	}
	for after == 0 {
		e, err := conn.Receive()
		if err != nil {
			return err
		}
		if e.PID == service && e.Signal == int(syscall.SIGKILL) {
			after++
		}
	}
	report("service_exit_seen", after)
	return poweroff(conn, "the test is over")
}

func playPanic(*control.Conn) error {
	return errors.Join(os.WriteFile(panicFile, nil, 0o600), forever())
}

// playHang hangs PID 1 itself, in the first life of the machine.
func playHang(conn *control.Conn) error {
	if strings.Contains(read(pid1.ReportPath), `"reset_by_watchdog": true`) {
		report("reset_by_watchdog", true)
		return poweroff(conn, "the test is over")
	}
	return errors.Join(os.WriteFile(hangFile, nil, 0o600), forever())
}

// playStarve feeds no more, in the first life of the machine, with a service running.
func playStarve(conn *control.Conn) error {
	if strings.Contains(read(pid1.ReportPath), `"reset_by_watchdog": true`) {
		report("reset_by_watchdog", true)
		return poweroff(conn, "the test is over")
	}
	service, err := start(pid1.ServicesCgroup+"/one", "sleep")
	if err != nil {
		return err
	}
	for {
		e, err := conn.Receive()
		if err != nil {
			return err
		}
		if e.PID == service || ended(service) {
			report("service_killed", true)
		}
	}
}

// playStubborn wants a power-off and does not obey SIGTERM; neither does its service.
func playStubborn(conn *control.Conn) error {
	signal.Ignore(syscall.SIGTERM)
	if _, err := start(pid1.ServicesCgroup+"/one", "sleep"); err != nil {
		return err
	}
	return errors.Join(conn.Poweroff("the test is over"), forever())
}

// poweroff asks for it and ends when PID 1 says so.
func poweroff(conn *control.Conn, reason string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if err := conn.Poweroff(reason); err != nil {
		return err
	}
	<-stop
	report("terminated", true)
	return nil
}

// forever waits in the kernel: the Go runtime ends a program in which nothing else can happen.
func forever() error {
	for {
		_ = unix.Pause()
	}
}

// start runs this program with a verb in a cgroup, or in the agent's own. Its parent is a process that ends at
// once, so that it is an orphan as a container is, unless it is to see its parent die.
func start(cgroup, verb string) (int, error) {
	c := exec.Command("/proc/self/exe", verb)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	if cgroup != "" {
		if err := os.MkdirAll(cgroup, 0o755); err != nil {
			return 0, err
		}
		dir, err := os.Open(cgroup)
		if err != nil {
			return 0, err
		}
		defer dir.Close()
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	}
	if err := c.Start(); err != nil {
		return 0, fmt.Errorf("start %s in %s: %w", verb, filepath.Base(cgroup), err)
	}
	return c.Process.Pid, nil
}

func ended(pid int) bool { return strings.Contains(read(fmt.Sprintf("/proc/%d/stat", pid)), ") Z ") }

func sleep() error {
	signal.Ignore(syscall.SIGTERM)
	return forever()
}

func orphan() error {
	for os.Getppid() != 1 {
		time.Sleep(time.Millisecond)
	}
	os.Exit(9)
	return nil
}

func read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

func field(path, name string) string {
	for line := range strings.Lines(read(path)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			f := strings.Fields(value)
			if n, err := strconv.Atoi(f[0]); err == nil {
				return strconv.Itoa(n) + "kB"
			}
		}
	}
	return ""
}
