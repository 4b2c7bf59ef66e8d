package pid1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watchdogDevice is the one that PID 1 opens: the first that registered.
const watchdogDevice = "/dev/watchdog0"

// armedWatchdog is one that counts. It is never closed and never disarmed, not by a stop of the machine either:
// a stop that hangs must end in a reset too.
type armedWatchdog struct {
	fd       int
	identity string
	timeout  time.Duration
	byDog    bool // the last reset of this machine was its doing
}

// armWatchdog loads the first driver that finds its hardware and starts its countdown. A machine without any
// goes on, and says so: its peers then have one proof less of its death.
func (m *Machine) armWatchdog(list moduleList, timeout time.Duration) {
	for _, name := range watchdogs {
		if _, err := os.Stat(watchdogDevice); err == nil {
			break // this one, or one that the kernel has built in
		}
		for _, file := range list.withNeeds(name, moduleNeeds) {
			params := ""
			if moduleName(file) == name {
				params = "nowayout=1" // not even a program that closes the device properly stops it
			}
			if _, err := loadModule(list.file(file), params); err != nil {
				m.report.ModulesFailed = append(m.report.ModulesFailed, err.Error())
				m.console.logf("%v", err)
			}
		}
	}
	dog, err := openWatchdog(watchdogDevice, timeout)
	m.watchdog = dog // also with an error: once it is open it counts, and must be fed
	if err != nil {
		m.report.WatchdogError = err.Error()
		m.console.logf("no watchdog: %v", err)
		return
	}

	m.report.Watchdog, m.report.WatchdogTimeoutS = dog.identity, int(dog.timeout.Seconds())
	m.report.ResetByWatchdog = dog.byDog
	m.report.ArmedMS = m.Uptime().Milliseconds()
	m.console.logf("watchdog armed: %s, %s", dog.identity, dog.timeout)
	if dog.byDog {
		m.console.logf("the last reset of this machine was done by its watchdog")
	}
}

// keepFed feeds the watchdog while the machine boots: a driver may look for its disks for longer than the
// watchdog's timeout. A boot that takes longer than the limit is not fed any more. The returned function ends
// it, and must be called before the supervision takes over.
func (m *Machine) keepFed(limit time.Duration) (stop func()) {
	if m.watchdog == nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	var feeder tasks
	feeder.start(func() {
		tick := time.NewTicker(feedInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := m.watchdog.feed(); err != nil {
				m.console.logf("%v", err)
			}
		}
	})
	return func() {
		cancel()
		feeder.wait()
	}
}

func openWatchdog(path string, timeout time.Duration) (*armedWatchdog, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) // opening starts the countdown
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("no driver found its hardware, and softdog is not in the image")
		}
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	dog := &armedWatchdog{fd: fd, identity: "unknown", timeout: timeout}
	if info, err := unix.IoctlGetWatchdogInfo(fd); err == nil {
		name, _, _ := bytes.Cut(info.Identity[:], []byte{0})
		dog.identity = string(name)
	}
	if status, err := unix.IoctlGetInt(fd, unix.WDIOC_GETBOOTSTATUS); err == nil {
		dog.byDog = status&unix.WDIOF_CARDRESET != 0
	}
	// A driver that cannot take this timeout keeps its own. Which one it is must be known: the time after
	// which a silent machine is surely dead depends on it.
	setErr := unix.IoctlSetPointerInt(fd, unix.WDIOC_SETTIMEOUT, int(timeout.Seconds()))
	seconds, err := unix.IoctlGetInt(fd, unix.WDIOC_GETTIMEOUT)
	if err == nil && seconds > 0 {
		dog.timeout = time.Duration(seconds) * time.Second
	} else if setErr != nil {
		return dog, fmt.Errorf("set the timeout of watchdog %s: %w", dog.identity, setErr)
	}
	return dog, dog.feed()
}

func (w *armedWatchdog) feed() error {
	if err := unix.IoctlWatchdogKeepalive(w.fd); err != nil {
		return fmt.Errorf("feed watchdog %s: %w", w.identity, err)
	}
	return nil
}
