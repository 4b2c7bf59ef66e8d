// Init is PID 1 of a guest that runs one test program: it makes the machine what a node is (root on a
// mount of its own, cgroup v2, modules), runs /test/program, says how that ended and powers off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is for PID 1 of a test guest only")
		os.Exit(2)
	}
	code := 125
	if err := setup(); err != nil {
		fmt.Println("SKEIN-GUEST setup:", err)
	} else {
		code = run()
	}
	fmt.Println("SKEIN-GUEST exit", code)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func setup() error {
	// pivot_root does not work from the initramfs itself; it does from a mount of it that covers it.
	if err := os.MkdirAll("/newroot", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/", "/newroot", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind root: %w", err)
	}
	if err := unix.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	for _, m := range []struct{ fs, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}, {"cgroup2", "/sys/fs/cgroup"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := modules(); err != nil {
		return err
	}
	services := "/sys/fs/cgroup/skein.services"
	if err := os.MkdirAll(services, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"/sys/fs/cgroup", services} {
		if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+cpu +memory +pids +io"), 0); err != nil {
			return err
		}
	}
	return nil
}

// modules loads those of the image, and then those that the test brought.
func modules() error {
	if err := load("/etc/skein/modules.json"); err != nil {
		return err
	}
	err := load("/test/modules.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func load(name string) error {
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var list struct {
		Kernel string
		Load   []string
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, m := range list.Load {
		f, err := os.Open(filepath.Join("/lib/modules", list.Kernel, m))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		// A driver whose hardware is not there, or that the guest's test does not need.
		if err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Println("SKEIN-GUEST module", m, err)
		}
	}
	return nil
}

func run() int {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Println("SKEIN-GUEST", err)
		return 125
	}
	var args []string
	for _, w := range strings.Fields(string(cmdline)) {
		if a, ok := strings.CutPrefix(w, "test.arg="); ok {
			args = append(args, a)
		}
	}
	cmd := exec.Command("/test/program", args...)
	cmd.Dir = "/tmp"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", "SKEIN_BOX=/test/box"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Run(); err != nil {
		fmt.Println("SKEIN-GUEST", err)
		return max(cmd.ProcessState.ExitCode(), 1)
	}
	return 0
}
