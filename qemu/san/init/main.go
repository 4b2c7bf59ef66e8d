// Init is PID 1 of the lab's storage array. It must not end: the kernel would panic. An array that cannot start says
// so on its console and to every order.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu/san"
	"github.com/skein-os/skein/qemu/san/target"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "skein-san: this is for PID 1 of the lab's storage array only")
		os.Exit(2)
	}
	array, failed := start()
	if failed != nil {
		fmt.Println("san: cannot start:", failed)
	} else {
		fmt.Println("san: ready")
	}
	port, err := target.Port(san.ControlPort)
	if err == nil {
		err = san.Serve(port, func(o san.Order) (*san.Status, error) {
			if failed != nil {
				return nil, failed
			}
			return array.Do(o)
		})
	}
	fmt.Println("san: no more orders:", err)
	for {
		_ = unix.Pause()
	}
}

func start() (*target.Array, error) {
	if err := os.MkdirAll("/proc", 0o755); err != nil {
		return nil, err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	addresses, err := parseAddresses(string(cmdline))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return target.Start(ctx, addresses)
}

// parseAddresses reads san.addresses=ADDRESS/BITS,... of the kernel's command line.
func parseAddresses(cmdline string) ([]netip.Prefix, error) {
	for word := range strings.FieldsSeq(cmdline) {
		list, ok := strings.CutPrefix(word, san.AddressParameter+"=")
		if !ok {
			continue
		}
		var all []netip.Prefix
		for text := range strings.SplitSeq(list, ",") {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", word, err)
			}
			all = append(all, p)
		}
		return all, nil
	}
	return nil, errors.New("the kernel's command line has no " + san.AddressParameter)
}
