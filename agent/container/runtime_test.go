package container

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/vishvananda/netlink"
)

// TestRuntimeLife goes the way of a service: start, answer, exec, logs, stop, remove.
func TestRuntimeLife(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	run := w.start(w.instance("demo.box.1.a"))
	t.Logf("Start took %v", time.Since(begin).Round(time.Millisecond))
	w.awaitLog("demo.box.1.a", "serving")
	t.Logf("serving after %v", time.Since(begin).Round(time.Millisecond))

	resp, err := http.Get("http://" + run.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if got, want := string(body), "hello from box-1\n"; err != nil || got != want {
		t.Errorf("got answer %q, %v, want %q", got, err, want)
	}

	if _, err := w.runtime.Start(t.Context(), w.instance("demo.box.1.a"), 0); !errors.Is(err, ErrRunning) {
		t.Errorf("second start: got %v, want %v", err, ErrRunning)
	}

	begin = time.Now()
	var out, errs bytes.Buffer
	code, err := w.runtime.Exec(t.Context(), "demo.box.1.a", []string{"/bin/box", "cat"}, strings.NewReader("in"), &out, &errs)
	if err != nil || code != 0 || out.String() != "in" {
		t.Errorf("exec cat: got %d, %q, %q, %v", code, out.String(), errs.String(), err)
	}
	t.Logf("Exec took %v", time.Since(begin).Round(time.Millisecond))
	if code, err = w.runtime.Exec(t.Context(), "demo.box.1.a", []string{"/bin/box", "exit", "7"}, nil, &out, &errs); err != nil || code != 7 {
		t.Errorf("exec exit 7: got %d, %v", code, err)
	}
	if _, err = w.runtime.Exec(t.Context(), "demo.box.1.a", []string{"/no/such"}, nil, &out, &errs); err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("exec of nothing: got %v, want an error that names it", err)
	}

	begin = time.Now()
	e, err := w.runtime.Stop(t.Context(), "demo.box.1.a", "", time.Minute)
	if err != nil || !e.OK() {
		t.Errorf("stop: got %v, %v, want exit code 0", e, err)
	}
	t.Logf("Stop took %v", time.Since(begin).Round(time.Millisecond))
	if got, want := fmt.Sprint(w.logs("demo.box.1.a")), "[serving asked to stop]"; got != want {
		t.Errorf("got log %s, want %s", got, want)
	}
	if err := w.runtime.Remove(t.Context(), "demo.box.1.a"); err != nil {
		t.Error(err)
	}
	w.nothingLeft("demo.box.1.a")
}

// nothingLeft checks the kernel, not the Runtime's own view.
func (w *world) nothingLeft(id string) {
	w.t.Helper()
	if _, err := netlink.LinkByName(vethName(id)); err == nil {
		w.t.Errorf("link %s is still there", vethName(id))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.runtime.dir(id)+"/") {
			w.t.Errorf("mount is still there: %s", line)
		}
	}
	left := []string{w.runtime.dir(id), filepath.Join(w.cfg.Root, ".crun", id)}
	if w.cfg.Cgroup != "" {
		left = append(left, filepath.Join(cgroupMount, w.cfg.Cgroup, id))
	}
	for _, p := range left {
		if _, err := os.Stat(p); err == nil {
			w.t.Errorf("%s is still there", p)
		}
	}
	if tmp, _ := os.ReadDir(filepath.Join(w.cfg.Root, ".tmp")); len(tmp) > 0 {
		w.t.Errorf("%d temporary files are still there", len(tmp))
	}
}

func TestRuntimeConfinement(t *testing.T) {
	w := newWorld(t)
	in := w.instance("demo.box.1.a", "probe")
	in.Spec.Env = map[string]string{"MODE": "test"}
	in.Spec.User = "web"
	in.Spec.Tmpfs = []string{"/scratch:size=1m"}
	in.Spec.Files = []cluster.File{{Target: "/etc/box.conf", Content: []byte("hello")}}
	root := w.instance("demo.box.2.b", "probe")
	root.Spec.Tmpfs, root.Spec.Writable = []string{"/scratch"}, true
	probe := func(in cluster.Instance) map[string]string {
		w.start(in)
		if e := w.wait(in.ID); !e.OK() {
			t.Fatalf("probe %s; log %q", e, w.logs(in.ID))
		}
		facts := map[string]string{}
		if err := json.Unmarshal([]byte(strings.Join(w.logs(in.ID), "")), &facts); err != nil {
			t.Fatal(err)
		}
		return facts
	}
	nosys, rofs, perm := "function not implemented", "read-only file system", "operation not permitted"
	check := func(name string, facts, want map[string]string) {
		for k, v := range want {
			if got := facts[k]; got != v {
				t.Errorf("%s: %s: got %q, want %q", name, k, got, v)
			}
		}
	}
	user := probe(in)
	check("user", user, map[string]string{
		"write /": rofs, "write /scratch": "ok", "write /proc/sys": rofs,
		"mount": nosys, "unshare user": nosys, "bpf": nosys, "io_uring": nosys, "keyctl": nosys, "ptrace": nosys,
		"AF_ALG": nosys, "raw socket": perm, "sethostname": nosys,
		"resolv.conf": "nameserver 10.80.7.1\nsearch demo.skein\noptions timeout:1 attempts:3",
		"hostname":    "box-1", "config": "hello", "uid": "100", "gid": "101", "pid": "1", "processes": "1", "cwd": "/srv",
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
		"env": "FROM=image HOME=/srv MODE=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	})
	check("root", probe(root), map[string]string{
		"write /": "ok", "write /proc/sys": rofs, "mount": nosys, "raw socket": perm, "mknod": perm,
		"uid": "0", "CapEff": "00000000000004fb", "CapBnd": "00000000000004fb", "NoNewPrivs": "1", "Seccomp": "2",
	})
	// How these fail depends on the kernel.
	for _, k := range []string{"mknod", "write sysrq"} {
		if user[k] == "ok" {
			t.Errorf("%s: got ok, want any error", k)
		}
	}
	if got := user["kcore"]; got != "" && got != "no such file or directory" {
		t.Errorf("kcore: got %d bytes, want it masked", len(got))
	}
	if w.cfg.Cgroup != "" && user["write cgroup"] != rofs {
		t.Errorf("write cgroup: got %q, want %q", user["write cgroup"], rofs)
	}
	// The image, which others share, knows nothing of it.
	image, err := w.cfg.Images.Prepare(t.Context(), w.image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"new", "scratch", "proc", "etc/box.conf"} {
		if _, err := os.Stat(filepath.Join(image.Dir, p)); err == nil {
			t.Errorf("%s appeared in the unpacked image", p)
		}
	}
}

func TestRuntimeExit(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name string
		in   cluster.Instance
		stop string
		want Exit
	}{
		{"code", w.instance("a", "exit", "3"), "", Exit{Code: 3}},
		{"ok", w.instance("b", "exit", "0"), "", Exit{}},
		{"pays no attention", w.instance("c", "hang"), "hanging", Exit{Signal: 9}},
		{"does not obey", w.instance("d", "stubborn"), "stubborn", Exit{Signal: 9}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &world{t, w.cfg, w.runtime, w.image}
			run := w.start(c.in)
			if c.stop != "" {
				w.awaitLog(c.in.ID, c.stop)
				if _, err := w.runtime.Stop(t.Context(), c.in.ID, "", 200*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
			got := w.wait(c.in.ID)
			if got.PID != run.PID || got.At == 0 {
				t.Errorf("got %+v, want PID %d and a time", got, run.PID)
			}
			if got.PID, got.At = 0, 0; got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestRuntimeStartAgain(t *testing.T) {
	w := newWorld(t)
	first := w.start(w.instance("a", "exit", "1"))
	w.wait("a")
	second := w.start(w.instance("a", "exit", "2"))
	w.wait("a")
	if first.Address != second.Address || first.PID == second.PID {
		t.Errorf("got %+v after %+v, want the same address and another process", second, first)
	}
	if got, want := fmt.Sprint(w.logs("a")), "[exiting with 1 exiting with 2]"; got != want {
		t.Errorf("got log %s, want %s", got, want)
	}
}

// TestRuntimeStartFails: whatever is wrong, the error says what, and nothing stays.
func TestRuntimeStartFails(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, want string
		change     func(*cluster.Instance)
	}{
		{"no program", "/nothing", func(in *cluster.Instance) { in.Spec.Entrypoint = []string{"/nothing"} }},
		{"no user", "nobody-here", func(in *cluster.Instance) { in.Spec.User = "nobody-here" }},
		{"no image", "not found", func(in *cluster.Instance) { in.Spec.ImageDigest = ""; in.Spec.Image = "no/such:1" }},
		{"bad capability", "CAP_FLY", func(in *cluster.Instance) { in.Spec.CapAdd = []string{"fly"} }},
		{"bad tmpfs", "/proc", func(in *cluster.Instance) { in.Spec.Tmpfs = []string{"/proc/x"} }},
		{"bad name", "characters", func(in *cluster.Instance) { in.ID = "../x" }},
	} {
		in := w.instance("a", "exit", "0")
		c.change(&in)
		_, err := w.runtime.Start(t.Context(), in, 0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, err, c.want)
		}
		w.nothingLeft("a")
	}
	if n := len(w.runtime.alloc.used); n != 0 {
		t.Errorf("%d addresses are still taken", n)
	}
	w.start(w.instance("a", "exit", "0"))
	w.wait("a")
}

// TestRuntimeAdopt: the agent goes and comes back; one container ran on, one ended meanwhile, one had
// ended before, one was cut short in its start.
func TestRuntimeAdopt(t *testing.T) {
	w := newWorld(t)
	lives := w.start(w.instance("lives"))
	w.awaitLog("lives", "serving")
	w.start(w.instance("ended", "exit", "5"))
	w.wait("ended")
	dies, err := w.runtime.Start(t.Context(), w.instance("dies", "hang"), 3)
	if err != nil {
		t.Fatal(err)
	}
	w.runtime.Close()
	if err := os.MkdirAll(w.runtime.dir("cut"), 0o700); err != nil {
		t.Fatal(err)
	}
	proc := openProcess(dies.PID)
	if err := proc.signal(9); err != nil {
		t.Fatal(err)
	}
	proc.wait()
	proc.close()

	w.open()
	got, err := w.runtime.Adopt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range got {
		ids = append(ids, r.Instance.ID)
	}
	if fmt.Sprint(ids) != "[dies ended lives]" {
		t.Fatalf("got %v, want dies, ended, lives", ids)
	}
	if got[2].PID != lives.PID || got[2].Exit != nil || got[2].Address != lives.Address {
		t.Errorf("lives: got %+v, want %+v", got[2], lives)
	}
	if e := got[1].Exit; e == nil || e.Code != 5 {
		t.Errorf("ended: got exit %v, want code 5", e)
	}
	if e := w.wait("dies"); e.Signal != 9 || got[0].Restarts != 3 {
		t.Errorf("dies: got %v, %d restarts, want killed by SIGKILL, 3 restarts", e, got[0].Restarts)
	}
	w.nothingLeft("cut")
	if e, err := w.runtime.Stop(t.Context(), "lives", "", time.Minute); err != nil || !e.OK() {
		t.Errorf("stop of an adopted container: got %v, %v, want exit code 0", e, err)
	}
	// Addresses of adopted containers are not given out again.
	if next := w.start(w.instance("new", "exit", "0")); next.Address == lives.Address || next.Address == dies.Address {
		t.Errorf("new container got the address %s of another", next.Address)
	}
}

func TestRuntimeLogIsBounded(t *testing.T) {
	w := newWorld(t)
	const lines = 100_000 // of 100 bytes
	w.start(w.instance("a", "flood", fmt.Sprint(lines)))
	w.awaitLog("a", "flooded")
	deadline := time.Now().Add(time.Minute)
	for {
		st, err := os.Stat(w.runtime.dir("a", "log"))
		if err != nil {
			t.Fatal(err)
		}
		if used := usedBytes(st); used <= LogKeep+2*4096 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("log uses %d bytes, want at most %d", used, LogKeep)
		}
		time.Sleep(TrimEvery / 4)
	}
	got := w.logs("a")
	if n := len(got); n < LogKeep/100-50 || n > LogKeep/100+50 {
		t.Errorf("got %d lines, want about %d", n, LogKeep/100)
	}
	for i, l := range got[:len(got)-1] {
		if want := fmt.Sprintf("%08d ", lines-len(got)+1+i); !strings.HasPrefix(l, want) {
			t.Fatalf("line %d: got %.20q, want it to begin with %q", i, l, want)
		}
	}
	var tail []string
	if err := w.runtime.Logs(t.Context(), "a", false, 1, func(l string) error { tail = append(tail, l); return nil }); err != nil || fmt.Sprint(tail) != "[flooded]" {
		t.Errorf("tail 1: got %q, %v", tail, err)
	}
}

// TestRuntimeLimits needs cgroup v2, so usually the guest.
func TestRuntimeLimits(t *testing.T) {
	w := newWorld(t)
	if w.cfg.Cgroup == "" {
		t.Skip("needs cgroup v2")
	}
	in := w.instance("eats", "eat")
	in.Spec.Limits = cluster.Resources{CPUs: 0.5, Memory: 32 << 20, Pids: 50}
	w.start(in)
	if e := w.wait("eats"); e.Signal != 9 || !e.OOM {
		t.Errorf("got %+v, want it killed for its memory", e)
	}
	in = w.instance("limited")
	in.Spec.Limits = cluster.Resources{CPUs: 0.5, Memory: 64 << 20, Pids: 50}
	w.start(in)
	for file, want := range map[string]string{"cpu.max": "50000 100000", "memory.max": "67108864", "pids.max": "50", "memory.swap.max": "0"} {
		data, err := os.ReadFile(filepath.Join(cgroupMount, w.cfg.Cgroup, "limited", file))
		if got := strings.TrimSpace(string(data)); err != nil && file != "memory.swap.max" || err == nil && got != want {
			t.Errorf("%s: got %q, %v, want %q", file, got, err, want)
		}
	}
}
