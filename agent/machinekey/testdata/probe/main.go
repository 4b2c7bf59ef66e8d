// Program probe is the first process of a machine that keeps a key in its firmware, and tells on the serial port what
// it found. Each boot but the first finds the key of the one before, and replaces it by another cluster's.
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/machinekey"
	"github.com/skein-os/skein/agent/pki"
)

func main() {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			fmt.Println("PROBE mount", m[1], err)
		}
	}
	console, err := os.OpenFile("/dev/ttyS0", os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	if err := round(console); err != nil {
		fmt.Fprintln(console, "PROBE error", err)
	}
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		panic(err)
	}
}

func round(console *os.File) error {
	s, err := machinekey.Open()
	if err != nil {
		return err
	}
	if s == nil {
		fmt.Fprintln(console, "PROBE no place")
		return nil
	}
	a, b := strings.Repeat("0a", 32), strings.Repeat("0b", 32)
	found, next := "none", a
	for name, ca := range map[string]string{"a": a, "b": b} {
		key, err := s.Read(ca)
		if err != nil {
			return err
		}
		if key != nil {
			found = name
		}
	}
	if found == "a" {
		next = b
	}
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	if err := s.Write(next, key); err != nil {
		return err
	}
	fmt.Fprintln(console, "PROBE found", found)
	return nil
}
