// Command probe is the first process of the guest tests: it loads the modules, tries the C programs,
// runs the container images that it finds on its disks, prints a line for each and powers off.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	defer func() {
		if r := recover(); r != nil {
			fmt.Println("PROBE panic", r)
		}
		fmt.Println("PROBE end")
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}()
	for _, m := range [][3]string{{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""}, {"tmpfs", "/tmp", ""}, {"tmpfs", "/run", ""}, {"cgroup2", "/sys/fs/cgroup", ""}} {
		report("mount "+m[1], unix.Mount(m[0], m[1], m[0], 0, m[2]))
	}
	report("modules", modules())
	out, err := exec.Command("/usr/bin/crun", "--version").CombinedOutput()
	report("crun "+strings.SplitN(string(out), "\n", 2)[0], err)
	report("loopback", loopback())
	if _, err := os.Stat("/dev/vda"); err == nil {
		report("web", web("/dev/vda"))
	}
}

// report prints one result.
func report(what string, err error) {
	if err != nil {
		fmt.Printf("PROBE fail %s: %v\n", what, err)
		return
	}
	up, _ := os.ReadFile("/proc/uptime")
	fmt.Printf("PROBE ok %s (uptime %s)\n", what, strings.SplitN(string(up), " ", 2)[0])
}

func modules() error {
	data, err := os.ReadFile("/etc/skein/modules.json")
	if err != nil {
		return err
	}
	var list struct {
		Kernel string
		Load   []string
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	if got := unix.ByteSliceToString(u.Release[:]); got != list.Kernel {
		return fmt.Errorf("kernel is %s, modules are for %s", got, list.Kernel)
	}
	var errs []error
	for _, name := range list.Load {
		f, err := os.Open(filepath.Join("/lib/modules", list.Kernel, name))
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// web runs the image on the disk as a node would: read-only root, tmpfs on /tmp, few capabilities.
func web(disk string) error {
	data, err := os.ReadFile(disk)
	if err != nil {
		return err
	}
	bundle := "/run/web"
	if err := unpack(data, bundle+"/rootfs"); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	spec, err := json.Marshal(spec("/usr/sbin/nginx"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(bundle+"/config.json", spec, 0o600); err != nil {
		return err
	}
	// The kernel's first root cannot be pivoted away from; a node moves to another one first.
	cmd := exec.Command("/usr/bin/crun", "--cgroup-manager=cgroupfs", "run", "--no-pivot", "--bundle="+bundle, "web")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	if err := await(exited); err != nil {
		return fmt.Errorf("%w: %s", err, log.String())
	}
	for path, want := range map[string]string{"/health": "ok\n", "/hostname": "probe\n", "/": "<code>probe</code>"} {
		resp, err := http.Get("http://127.0.0.1" + path)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			return fmt.Errorf("GET %s: got %q, %v; want %q", path, body, err, want)
		}
	}
	out, err := exec.Command("/usr/bin/crun", "exec", "web", "sh", "-c", "wget -q -O - http://127.0.0.1/health && id -u && touch /x || echo read-only").CombinedOutput()
	if got, want := string(out), "ok\n0\ntouch: /x: Read-only file system\nread-only\n"; err != nil || got != want {
		return fmt.Errorf("exec: got %q, %v; want %q", got, err, want)
	}
	if out, err := exec.Command("/usr/bin/crun", "kill", "web", "QUIT").CombinedOutput(); err != nil {
		return fmt.Errorf("kill: %w: %s", err, out)
	}
	select {
	case err := <-exited:
		if err != nil {
			return fmt.Errorf("nginx ended with %w: %s", err, log.String())
		}
	case <-time.After(30 * time.Second):
		return errors.New("nginx did not stop on SIGQUIT")
	}
	if !strings.Contains(log.String(), `"GET /hostname HTTP/1.1" 200`) {
		return fmt.Errorf("no access log on standard output: %q", log.String())
	}
	return nil
}

// await tries to connect until it works or the container has ended.
func await(exited <-chan error) error {
	deadline := time.After(60 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", "127.0.0.1:80", time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case err := <-exited:
			return fmt.Errorf("the container ended at once: %w", err)
		case <-deadline:
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

type object map[string]any

func spec(args ...string) object {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_KILL"}
	return object{
		"ociVersion": "1.0.0",
		"hostname":   "probe",
		"root":       object{"path": "rootfs", "readonly": true},
		"process": object{
			"args": args, "cwd": "/", "env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "user": object{"uid": 0, "gid": 0},
			"noNewPrivileges": true,
			"capabilities":    object{"bounding": caps, "effective": caps, "permitted": caps},
		},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
			{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "nodev", "mode=1777"}},
		},
		"linux": object{"namespaces": []object{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}}},
	}
}

// unpack lays the layers of the one image in an OCI layout over each other.
func unpack(archive []byte, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return err
		}
	}
	type descriptor struct{ Digest string }
	blob := func(d descriptor) []byte { return files["blobs/"+strings.ReplaceAll(d.Digest, ":", "/")] }
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		return err
	}
	var manifest struct{ Layers []descriptor }
	if err := json.Unmarshal(blob(index.Manifests[0]), &manifest); err != nil {
		return err
	}
	for _, l := range manifest.Layers {
		z, err := gzip.NewReader(bytes.NewReader(blob(l)))
		if err != nil {
			return err
		}
		if err := untar(tar.NewReader(z), dir); err != nil {
			return err
		}
	}
	return nil
}

func untar(tr *tar.Reader, dir string) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
			if err == nil {
				err = os.Chmod(name, h.FileInfo().Mode())
			}
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, name)
		default:
			var data []byte
			if data, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(name, data, os.FileMode(h.Mode))
			}
		}
		if err != nil {
			return err
		}
	}
}
