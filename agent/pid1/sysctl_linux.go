package pid1

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What PID 1 sets for the whole machine. Settings of the network belong to the agent.
var sysctls = [][2]string{
	// A kernel that panics restarts at once; one that oopses is not to be trusted with anybody's data.
	{"kernel/panic", "-1"},
	{"kernel/panic_on_oops", "1"},
	// Soft lockups and hung tasks are only reported. The watchdog covers them with one single timeout, and
	// storage that fails over or a paused virtual machine would otherwise cost a restart.
	{"kernel/softlockup_panic", "0"},
	{"kernel/hung_task_panic", "0"},
	// Out of memory kills in the cgroup that is over its limit, never the machine.
	{"vm/panic_on_oom", "0"},
	// A break on the serial console must not give anybody the kernel's keys. /proc/sysrq-trigger still works.
	{"kernel/sysrq", "0"},
	// PID 1's records must not be rate-limited away.
	{"kernel/printk_devkmsg", "on"},
}

func setSysctls(logf func(string, ...any)) {
	settings := sysctls
	if cmdline, err := os.ReadFile("/proc/cmdline"); err == nil && !wantsKernelLog(string(cmdline)) {
		// Errors of the kernel and worse go to the consoles, the rest only to its log: PID 1 writes its
		// progress to the consoles itself.
		settings = append(settings[:len(settings):len(settings)], [2]string{"kernel/printk", "4 4 1 7"})
	}
	for _, s := range settings {
		if err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]+"\n"), 0o644); err != nil {
			logf("set sysctl: %v", err)
		}
	}
}

// wantsKernelLog: somebody asked on the kernel's command line for a certain amount of kernel messages.
func wantsKernelLog(cmdline string) bool {
	for word := range strings.FieldsSeq(cmdline) {
		if word == "debug" || word == "ignore_loglevel" || strings.HasPrefix(word, "loglevel=") {
			return true
		}
	}
	return false
}

// raiseLimits lets the agent and all it starts open as many files as the kernel allows by default. etcd and
// the containers need them. It goes through package syscall, which then keeps it for child processes.
func raiseLimits(logf func(string, ...any)) {
	const files = 1 << 20 // fs.nr_open
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: files, Max: files}); err != nil {
		logf("raise the limit of open files to %d: %v", files, err)
	}
}

// loopbackUp brings the loopback interface up. Nobody else can be relied on before the network is.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// disableCtrlAltDel turns the key combination into a SIGINT for PID 1.
func disableCtrlAltDel() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("take over Ctrl-Alt-Del: %w", err)
	}
	return nil
}
