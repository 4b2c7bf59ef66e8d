package container

import (
	"crypto/rand"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/skein-os/skein/agent/cluster"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// TestSpecGolden shows the whole confinement of a container in one file, so that a change of it is seen in
// review.
func TestSpecGolden(t *testing.T) {
	in := cluster.Instance{ID: "demo.web.1.a", Stack: "demo", Service: "web", Slot: 1, Spec: cluster.Service{
		Stack: "demo", Name: "web", Command: []string{"-v"}, Env: map[string]string{"B": "2"}, Tmpfs: []string{"/tmp", "/run:size=1m,mode=755"},
		CapDrop: []string{"chown"}, CapAdd: []string{"NET_RAW"}, Files: []cluster.File{{Target: "/etc/web.conf", Content: []byte("x")}},
		Limits: cluster.Resources{CPUs: 0.5, Memory: 64 << 20, Pids: 100}}}
	spec, err := makeSpec(specInput{instance: in, image: v1.Config{Entrypoint: []string{"/web"}, Cmd: []string{"-q"}, Env: []string{"A=1"}, WorkingDir: "/srv"},
		user: specs.User{UID: 100, GID: 101}, home: "/srv", hostname: "web-1", rootfs: "/c/rootfs", etc: "/c/etc", files: []string{"/c/files/0"},
		netns: "/c/netns", cgroup: "/skein.services/demo.web.1.a", noFile: 65536})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(spec, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/spec.json", append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/spec.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("the specification has changed; if that is meant, run: go test ./agent/container -run SpecGolden -update; got\n%s", got)
	}
}

func TestSpecRefuses(t *testing.T) {
	for name, svc := range map[string]cluster.Service{
		"nothing to run":    {},
		"tmpfs over /":      {Command: []string{"x"}, Tmpfs: []string{"/"}},
		"tmpfs over /proc":  {Command: []string{"x"}, Tmpfs: []string{"/a/../proc"}},
		"tmpfs relative":    {Command: []string{"x"}, Tmpfs: []string{"tmp"}},
		"tmpfs option":      {Command: []string{"x"}, Tmpfs: []string{"/tmp:suid"}},
		"config over /sys":  {Command: []string{"x"}, Files: []cluster.File{{Target: "/sys/x"}}},
		"negative limit":    {Command: []string{"x"}, Limits: cluster.Resources{Memory: -1}},
		"zero byte":         {Command: []string{"a\x00b"}},
		"unknown capabilty": {Command: []string{"x"}, CapAdd: []string{"SYS_MAGIC"}},
	} {
		in := specInput{instance: cluster.Instance{Spec: svc}, cgroup: "/x", files: make([]string, len(svc.Files))}
		if _, err := makeSpec(in); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestCommand(t *testing.T) {
	img := v1.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"default"}}
	for _, c := range []struct {
		svc  cluster.Service
		want string
	}{
		{cluster.Service{}, "/entry default"},
		{cluster.Service{Command: []string{"other"}}, "/entry other"},
		{cluster.Service{Entrypoint: []string{"/mine"}}, "/mine"},
		{cluster.Service{Entrypoint: []string{"/mine"}, Command: []string{"x"}}, "/mine x"},
		{cluster.Service{Entrypoint: []string{}, Command: []string{"/x"}}, "/x"},
	} {
		got, err := command(&c.svc, img)
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: got %q, %v, want %q", c.svc, got, err, c.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	for _, c := range []struct {
		add, drop []string
		want      []string
	}{
		{nil, []string{"ALL"}, []string{}},
		{[]string{"net_raw"}, []string{"all"}, []string{"CAP_NET_RAW"}},
		{[]string{"ALL"}, nil, allCapabilities},
		{[]string{"CAP_NET_ADMIN"}, []string{"CHOWN", "KILL", "FOWNER", "FSETID", "SETGID", "SETUID", "DAC_OVERRIDE"}, []string{"CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE"}},
	} {
		got, err := capabilities(c.add, c.drop)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("add %q, drop %q: got %q, %v, want %q", c.add, c.drop, got, err, c.want)
		}
	}
}

// TestSeccompKeepsOut: whatever capabilities, short of the one that is about it, these are not allowed.
func TestSeccompKeepsOut(t *testing.T) {
	behind := map[string]string{"mount": "CAP_SYS_ADMIN", "unshare": "CAP_SYS_ADMIN", "setns": "CAP_SYS_ADMIN", "ptrace": "CAP_SYS_PTRACE",
		"init_module": "CAP_SYS_MODULE", "finit_module": "CAP_SYS_MODULE", "open_by_handle_at": "CAP_DAC_READ_SEARCH", "reboot": "CAP_SYS_BOOT",
		"clock_settime": "CAP_SYS_TIME", "iopl": "CAP_SYS_RAWIO",
		"kexec_load": "", "kexec_file_load": "", "io_uring_setup": "", "io_uring_enter": "", "userfaultfd": "", "keyctl": "", "add_key": "", "request_key": "",
		"swapon": "", "nfsservctl": "", "uselib": "", "vm86": "", "create_module": ""}
	rapid.Check(t, func(t *rapid.T) {
		caps := rapid.SliceOfDistinct(rapid.SampledFrom(allCapabilities), rapid.ID[string]).Draw(t, "caps")
		s := seccomp(caps)
		if s.DefaultAction != specs.ActErrno {
			t.Fatalf("got default action %v", s.DefaultAction)
		}
		allowed := map[string]bool{}
		for _, c := range s.Syscalls {
			for _, n := range c.Names {
				if c.Action == specs.ActAllow && len(c.Args) == 0 {
					allowed[n] = true
				}
			}
		}
		for call, cap := range behind {
			if want := cap != "" && slices.Contains(caps, cap); allowed[call] != want {
				t.Fatalf("%s with %q: got allowed %v, want %v", call, caps, allowed[call], want)
			}
		}
		if allowed["clone"] != slices.Contains(caps, "CAP_SYS_ADMIN") {
			t.Fatalf("clone without a look at its flags: %v", allowed["clone"])
		}
		for _, n := range []string{"read", "execve", "futex", "accept4"} {
			if !allowed[n] {
				t.Fatalf("%s is not allowed", n)
			}
		}
	})
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\nweb:x:100:101::/srv:/bin/false\n")
	group := []byte("root:x:0:\nweb:x:101:\nlog:x:200:web,other\nmany:x:201:other\n")
	for _, c := range []struct {
		user, home string
		want       specs.User
		fails      bool
	}{
		{"", "/root", specs.User{}, false},
		{"web", "/srv", specs.User{UID: 100, GID: 101, AdditionalGids: []uint32{200}}, false},
		{"100", "/srv", specs.User{UID: 100, GID: 101, AdditionalGids: []uint32{200}}, false},
		{"web:log", "/srv", specs.User{UID: 100, GID: 200}, false},
		{"5:6", "/", specs.User{UID: 5, GID: 6}, false},
		{"5", "/", specs.User{UID: 5}, false},
		{"nobody", "", specs.User{}, true},
		{"web:nogroup", "", specs.User{}, true},
		{"-1", "", specs.User{}, true},
		{"4294967295", "", specs.User{}, true},
	} {
		got, home, err := resolveUser(c.user, passwd, group)
		if (err != nil) != c.fails {
			t.Errorf("%q: got error %v", c.user, err)
		} else if err == nil && (got.UID != c.want.UID || got.GID != c.want.GID || !slices.Equal(got.AdditionalGids, c.want.AdditionalGids) || home != c.home) {
			t.Errorf("%q: got %+v, %q, want %+v, %q", c.user, got, home, c.want, c.home)
		}
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("web:log", []byte("web:x:100:101::/srv:/bin/false\n"), []byte("log:x:200:web\n"))
	f.Fuzz(func(t *testing.T, user string, passwd, group []byte) {
		u, home, err := resolveUser(user, passwd, group)
		if err == nil && (home == "" || len(u.AdditionalGids) > 64 || u.UID > 1<<31 || u.GID > 1<<31) {
			t.Errorf("%q: got %+v, %q", user, u, home)
		}
	})
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{"": 15, "SIGTERM": 15, "quit": 3, "9": 9, "SIGRTMIN+3": 37, "SIGWINCH": 28} {
		if got, err := ParseSignal(s); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"SIGNOTHING", "0", "65", "-1"} {
		if got, err := ParseSignal(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, got)
		}
	}
}

// TestAllocator: no address twice, never the network's, the node's or the broadcast address.
func TestAllocator(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newAllocator(netip.MustParsePrefix("10.80.7.0/28"))
		held := map[string]netip.Addr{}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				id := rapid.StringMatching("[a-z]{6}").Draw(t, "id")
				if _, ok := held[id]; ok {
					t.Skip()
				}
				addr, err := a.take(id)
				if err != nil {
					if len(held) != 13 {
						t.Fatalf("refused with %d of 13 in use: %v", len(held), err)
					}
					return
				}
				for other, h := range held {
					if h == addr {
						t.Fatalf("%s given to %s and %s", addr, other, id)
					}
				}
				if n := addr.As4()[3]; n < 2 || n > 14 {
					t.Fatalf("got %s", addr)
				}
				held[id] = addr
			},
			"release": func(t *rapid.T) {
				for id := range held {
					a.release(id)
					delete(held, id)
					return
				}
			},
		})
	})
}

// TestRecentExits: a message is matched whether it comes before or after the PID is known, and never with
// a process that had the PID earlier.
func TestRecentExits(t *testing.T) {
	var r recentExits
	r.add(Exit{PID: 7, Code: 1, At: 100e6})
	if word := r.expect(7, 200e6); len(word) != 0 {
		t.Errorf("got the exit of an earlier process")
	}
	r = recentExits{}
	r.add(Exit{PID: 7, Code: 2, At: 300e6})
	if e := <-r.expect(7, 200e6); e.Code != 2 {
		t.Errorf("got %v, want code 2", e)
	}
	word := r.expect(8, 200e6)
	r.add(Exit{PID: 8, Code: 3, At: 400e6})
	r.add(Exit{PID: 8, Code: 3, At: 400e6}) // repeated
	if e := <-word; e.Code != 3 {
		t.Errorf("got %v, want code 3", e)
	}
	r.forget(8, word)
	for i := range 10 * maxRecent {
		r.add(Exit{PID: i, At: 500e6})
	}
	if len(r.exits) > maxRecent || len(r.waiting) != 1 {
		t.Errorf("keeps %d exits and %d expectations", len(r.exits), len(r.waiting))
	}
}
