package pid1

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// Config is what may differ between nodes. The zero value is a node as it is shipped.
type Config struct {
	// Agent is the command line of the agent, run from PID 1's own binary. Default: "agent".
	Agent []string
	// Limits are the times by which the agent is judged.
	Limits Limits
	// World, if set, is put between the supervision and the machine. Tests use it to break things.
	World func(World) World
}

// Run is the main function of PID 1. It never returns.
func Run(config Config) {
	defer dieOnPanic()
	// Handlers first: what is not handled has the Go runtime's default action, which for SIGHUP, SIGTERM and
	// others is to end the process, and the end of PID 1 is a kernel panic.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGPWR)
	// The rest is caught and forgotten. It is not ignored with signal.Ignore: that would be inherited by the
	// agent and every container, and a SIGHUP to a service would do nothing.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGPIPE,
		syscall.SIGALRM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGABRT, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGVTALRM, syscall.SIGPROF)
	// PID 1 allocates next to nothing. A small heap matters more than the time of its collector.
	debug.SetGCPercent(20)
	runtime.GOMAXPROCS(2)

	m, err := boot(config)
	if err != nil {
		m.console.logf("boot failed: %v; rebooting in %s", err, bootFailureDelay)
		time.Sleep(bootFailureDelay) // for whoever reads the console, and to not reboot in a tight circle
		m.Stop(Restart)
	}
	debug.FreeOSMemory()
	var world World = m
	if config.World != nil {
		world = config.World(m)
	}
	newSupervisor(world, config.Limits).run(context.Background(), signals)
	panic("supervision ended")
}

// bootFailureDelay is how long a machine that cannot boot shows why.
const bootFailureDelay = 10 * time.Second

// boot makes the machine usable. Each step is needed by a later one, in the order given. The machine is
// returned with an error too, as far as it is made, to report it with.
func boot(config Config) (*Machine, error) {
	limits := config.Limits.withDefaults()
	m := &Machine{console: newConsole(), report: Report{StartMS: uptime().Milliseconds()}}
	if err := enterRoot(); err != nil {
		return m, err
	}
	if err := mountFirst(); err != nil { // proc, sys, dev
		return m, err
	}
	m.console.open()
	m.console.logf("PID 1 runs since %s after the kernel's start", ago(time.Duration(m.report.StartMS)*time.Millisecond))
	setSysctls(m.console.logf)
	modules, err := readModules(modulesPath)
	if err != nil {
		m.console.logf("%v: going on with what the kernel has built in", err)
	}
	m.armWatchdog(modules, limits.Watchdog)
	defer m.keepFed(limits.Boot)()
	if err := mountRest(m.console.logf); err != nil {
		return m, err
	}
	if m.cgroups, err = makeCgroups(m.console.logf); err != nil {
		return m, err
	}
	m.loadModules(modules)
	if err := loopbackUp(); err != nil {
		m.console.logf("%v", err)
	}
	raiseLimits(m.console.logf)
	if err := m.prepareAgent(config.Agent); err != nil {
		return m, err
	}
	// The kernel would otherwise reset the machine at once on Ctrl-Alt-Del.
	if err := disableCtrlAltDel(); err != nil {
		m.console.logf("%v", err)
	}
	m.report.ReadyMS = m.Uptime().Milliseconds()
	if err := m.report.write(); err != nil {
		m.console.logf("%v", err)
	}
	return m, nil
}
