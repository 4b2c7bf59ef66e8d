// Box is the only program in the image that the container tests run. Its first argument says what to do;
// it knows nothing of Skein and sees itself as any service would.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "box:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	switch arg(0) {
	case "serve": // answers HTTP on port 80 until SIGTERM, then exits 0
		done := make(chan os.Signal, 1)
		signal.Notify(done, syscall.SIGTERM)
		l, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h, _ := os.Hostname()
			fmt.Fprintln(w, "hello from", h)
		}))
		fmt.Fprintln(out, "serving")
		<-done
		fmt.Fprintln(out, "asked to stop")
	case "exit":
		n, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "exiting with", n)
		os.Exit(n)
	case "hang": // ends for no signal but SIGKILL
		signal.Ignore(syscall.SIGTERM)
		fmt.Fprintln(out, "hanging")
		time.Sleep(24 * time.Hour)
	case "stubborn": // takes SIGTERM and does nothing about it
		signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
		fmt.Fprintln(out, "stubborn")
		time.Sleep(24 * time.Hour)
	case "eat": // uses memory until it is killed
		for kept := [][]byte{}; ; {
			b := bytes.Repeat([]byte{1}, 1<<20)
			kept = append(kept, b)
			_ = kept
		}
	case "flood": // writes N numbered lines of 100 bytes
		n, err := strconv.Atoi(arg(1))
		if err != nil {
			return err
		}
		for i := range n {
			fmt.Fprintf(out, "%08d %s\n", i, strings.Repeat("x", 90))
		}
		fmt.Fprintln(out, "flooded")
		time.Sleep(24 * time.Hour)
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "probe":
		return json.NewEncoder(out).Encode(probe())
	default:
		return fmt.Errorf("unknown argument %q", arg(0))
	}
	return nil
}

// probe tries what a container must not be able to do, and looks around.
func probe() map[string]string {
	facts := map[string]string{}
	fact := func(k string, err error) {
		facts[k] = "ok"
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			facts[k] = errno.Error()
		} else if err != nil {
			facts[k] = err.Error()
		}
	}
	file := func(k, path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			fact(k, err)
			return
		}
		facts[k] = strings.TrimSpace(string(data))
	}
	call := func(n uintptr, args ...uintptr) error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, e := syscall.RawSyscall6(n, a[0], a[1], a[2], a[3], a[4], a[5]); e != 0 {
			return e
		}
		return nil
	}
	fact("write /", os.WriteFile("/new", []byte("x"), 0o644))
	fact("write /scratch", os.WriteFile("/scratch/new", []byte("x"), 0o644))
	fact("write /proc/sys", os.WriteFile("/proc/sys/kernel/printk", []byte("1"), 0))
	fact("write sysrq", os.WriteFile("/proc/sysrq-trigger", []byte("h"), 0))
	fact("write cgroup", os.WriteFile("/sys/fs/cgroup/memory.max", []byte("max"), 0))
	fact("mount", syscall.Mount("tmpfs", "/scratch", "tmpfs", 0, ""))
	fact("unshare user", call(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER))
	fact("bpf", call(321))
	fact("io_uring", call(425))
	fact("keyctl", call(250))
	fact("ptrace", call(syscall.SYS_PTRACE))
	_, err := syscall.Socket(38, syscall.SOCK_SEQPACKET, 0) // AF_ALG
	fact("AF_ALG", err)
	_, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP)
	fact("raw socket", err)
	fact("mknod", syscall.Mknod("/dev/mem0", syscall.S_IFCHR|0o600, 1<<8|1))
	name := [65]byte{'x'}
	fact("sethostname", call(syscall.SYS_SETHOSTNAME, uintptr(unsafe.Pointer(&name[0])), 1))
	file("resolv.conf", "/etc/resolv.conf")
	file("hosts", "/etc/hosts")
	file("hostname", "/etc/hostname")
	file("config", "/etc/box.conf")
	file("kcore", "/proc/kcore")
	facts["uid"] = strconv.Itoa(os.Getuid())
	facts["gid"] = strconv.Itoa(os.Getgid())
	facts["pid"] = strconv.Itoa(os.Getpid())
	facts["cwd"], _ = os.Getwd()
	facts["env"] = strings.Join(os.Environ(), " ")
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if k, v, ok := strings.Cut(line, ":"); ok && (strings.HasPrefix(k, "Cap") || k == "NoNewPrivs" || k == "Seccomp") {
			facts[k] = strings.TrimSpace(v)
		}
	}
	procs := 0
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			procs++
		}
	}
	facts["processes"] = strconv.Itoa(procs)
	return facts
}
