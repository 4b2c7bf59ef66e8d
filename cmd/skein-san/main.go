// Command skein-san is the first process of the lab's SAN machine (package qemu/target).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu/target"
	"github.com/skein-os/skein/storage/modules"
)

// drivers are the machine's own, loaded before all that needs them.
var drivers = []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "ext4"}

// addressParameter of the kernel has an address with its prefix length for each network interface, in order.
const addressParameter = "skein.san.addresses="

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "skein-san is the first process of the lab's SAN machine; 'skein lab up --san' starts one")
		os.Exit(2)
	}
	err := run()
	fmt.Println("skein-san:", err)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func run() error {
	for _, m := range []struct{ fs, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := modules.Load(drivers...); err != nil {
		return err
	}
	portals, err := network()
	if err != nil {
		return err
	}
	luns, err := disks()
	if err != nil {
		return err
	}
	if err := modules.Load("target_core_mod", "target_core_iblock", "iscsi_target_mod"); err != nil {
		return err
	}
	if err := unix.Mount("configfs", "/sys/kernel/config", "configfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount configfs: %w", err)
	}
	s := &server{luns: luns, portals: portals}
	if err := target.Up(luns, portals, true); err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", target.ControlPort))
	if err != nil {
		return err
	}
	fmt.Printf("the SAN is up: %s with %d LUNs at %v\n", target.IQN, len(luns), portals)
	return (&http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}).Serve(l)
}

// network gives each interface its address.
func network() ([]netip.Addr, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, w := range strings.Fields(string(line)) {
		list, ok := strings.CutPrefix(w, addressParameter)
		if !ok {
			continue
		}
		for i, text := range strings.Split(list, ",") {
			name := fmt.Sprintf("eth%d", i)
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				return nil, fmt.Errorf("%s%s: %w", addressParameter, list, err)
			}
			link, err := netlink.LinkByName(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}); err != nil {
				return nil, fmt.Errorf("%s: address %s: %w", name, prefix, err)
			}
			if err := netlink.LinkSetUp(link); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, prefix.Addr())
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no %s on the kernel's command line", addressParameter)
	}
	return all, nil
}

// disks finds the LUNs' and mounts the one that keeps registrations.
func disks() ([]target.LUN, error) {
	names, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return nil, err
	}
	var luns []target.LUN
	state := ""
	for _, n := range names {
		serial, err := os.ReadFile(n + "/serial")
		if err != nil {
			return nil, err
		}
		device := "/dev/" + filepath.Base(n)
		text := strings.TrimSpace(string(serial))
		if text == target.StateSerial {
			state = device
			continue
		}
		number, err := strconv.Atoi(strings.TrimPrefix(text, "lun"))
		if err != nil {
			return nil, fmt.Errorf("disk %s has serial number %q, want lun0, lun1, ... or %s", device, text, target.StateSerial)
		}
		sectors, err := os.ReadFile(n + "/size")
		if err != nil {
			return nil, err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(sectors)), 10, 64)
		if err != nil {
			return nil, err
		}
		luns = append(luns, target.LUN{Number: number, Device: device, Size: size * 512})
	}
	slices.SortFunc(luns, func(a, b target.LUN) int { return a.Number - b.Number })
	if state == "" {
		return nil, fmt.Errorf("no disk with serial number %q", target.StateSerial)
	}
	return luns, mount(state)
}

// mount mounts the disk of registrations, with a new file system if it is blank.
func mount(device string) error {
	head := make([]byte, 4096)
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(f, head)
	f.Close()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(head, func(b byte) bool { return b != 0 }) {
		if out, err := exec.Command("/sbin/mke2fs", "-q", "-t", "ext4", device).CombinedOutput(); err != nil {
			return fmt.Errorf("mke2fs: %w: %s", err, out)
		}
	}
	if err := os.MkdirAll(target.Root, 0o700); err != nil {
		return err
	}
	return unix.Mount(device, target.Root, "ext4", unix.MS_SYNCHRONOUS, "")
}

// server takes the lab's orders.
type server struct {
	mu      sync.Mutex
	luns    []target.LUN
	portals []netip.Addr
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		st, err := target.State(s.luns, s.portals)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(st)
	})
	again := func(forget bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			s.mu.Lock()
			defer s.mu.Unlock()
			err := target.Down(s.luns, s.portals, forget)
			if err = errors.Join(err, target.Up(s.luns, s.portals, !forget)); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Printf("the target was started anew; registrations forgotten: %v\n", forget)
		}
	}
	mux.HandleFunc("POST /restart", again(false))
	mux.HandleFunc("POST /lose-reservations", again(true))
	return mux
}
