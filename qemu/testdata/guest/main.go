// Command guest is the first process of the machines that the lab's own tests boot: it gets an address
// on both LANs and does what it is asked by HTTP.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func main() {
	os.MkdirAll("/proc", 0o755)
	os.MkdirAll("/sys", 0o755)
	must("mount /proc", unix.Mount("proc", "/proc", "proc", 0, ""))
	must("mount /sys", unix.Mount("sys", "/sys", "sysfs", 0, ""))
	order, err := os.ReadFile("/modules/order")
	must("read module order", err)
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open("/modules/" + name)
		must("open "+name, err)
		must("load "+name, unix.FinitModule(int(f.Fd()), "", 0))
		f.Close()
	}
	if seed, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/opt/org.skein-os/seed/raw"); err == nil {
		fmt.Printf("seed: %s\n", seed)
	}
	lo, err := netlink.LinkByName("lo")
	must("find lo", err)
	must("lo up", netlink.LinkSetUp(lo))
	for _, name := range []string{"eth0", "eth1"} {
		go func() {
			for {
				err := address(name)
				if err == nil {
					return
				}
				fmt.Printf("%s: %v\n", name, err)
			}
		}()
	}
	go echo()
	serve()
}

func must(what string, err error) {
	if err != nil {
		fmt.Printf("guest: %s: %v\n", what, err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
}

func address(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	client, err := nclient4.New(name, nclient4.WithTimeout(time.Second), nclient4.WithRetry(30))
	if err != nil {
		return err
	}
	defer client.Close()
	lease, err := client.Request(context.Background())
	if err != nil {
		return err
	}
	ones, _ := lease.ACK.SubnetMask().Size()
	addr := fmt.Sprintf("%s/%d", lease.ACK.YourIPAddr, ones)
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return err
	}
	fmt.Printf("%s has %s\n", name, addr)
	return nil
}

func echo() {
	l, err := net.Listen("tcp", ":7")
	must("listen", err)
	for {
		c, err := l.Accept()
		must("accept", err)
		go io.Copy(c, c)
	}
}

func serve() {
	var held atomic.Int64
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	http.HandleFunc("/pingpong", func(w http.ResponseWriter, r *http.Request) {
		c, err := net.DialTimeout("tcp", r.FormValue("to"), 3*time.Second)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer c.Close()
		buf := make([]byte, 64)
		begin := time.Now()
		const n = 100
		for range n {
			c.Write(buf)
			if _, err := io.ReadFull(c, buf); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
		}
		fmt.Fprint(w, time.Since(begin)/n)
	})
	// hold opens a connection and keeps talking on it; count says how often it was answered.
	http.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		c, err := net.Dial("tcp", r.FormValue("to"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		go func() {
			buf := make([]byte, 64)
			for {
				c.Write(buf)
				if _, err := io.ReadFull(c, buf); err != nil {
					fmt.Printf("held connection ended: %v\n", err)
					held.Store(-1)
					return
				}
				held.Add(1)
				time.Sleep(10 * time.Millisecond)
			}
		}()
	})
	http.HandleFunc("/count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, held.Load()) })
	http.HandleFunc("/carrier", func(w http.ResponseWriter, r *http.Request) {
		b, _ := os.ReadFile("/sys/class/net/" + r.FormValue("of") + "/carrier")
		w.Write(b[:min(1, len(b))])
	})
	http.HandleFunc("/clock", func(w http.ResponseWriter, _ *http.Request) {
		var t unix.Timespec
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
		fmt.Fprint(w, t.Nano())
	})
	http.HandleFunc("/poweroff", func(http.ResponseWriter, *http.Request) {
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	})
	http.HandleFunc("/panic", func(http.ResponseWriter, *http.Request) {
		os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	})
	l, err := net.Listen("tcp", ":80")
	must("listen", err)
	fmt.Println("guest: ready")
	must("serve", http.Serve(l, nil))
}
