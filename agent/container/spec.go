package container

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/skein-os/skein/agent/cluster"
)

// specInput is all that an OCI specification is made of: the same input gives the same specification.
type specInput struct {
	instance cluster.Instance
	image    v1.Config
	user     specs.User
	home     string
	hostname string
	rootfs   string   // the container's overlay
	etc      string   // folder with resolv.conf, hosts, hostname
	files    []string // paths of the contents of Spec.Files, in order
	shared   string   // folder in which shared file systems are mounted, each under its name
	volumes  string   // folder in which the instance's volumes are mounted, each under its name
	netns    string
	cgroup   string // empty: no cgroup
	noFile   uint64 // open files a process may have
}

// makeSpec decides how a container is confined. Everything that comes from an operator or an image is
// checked here; crun checks no more than that it can do it.
func makeSpec(in specInput) (*specs.Spec, error) {
	svc := &in.instance.Spec
	args, err := command(svc, in.image)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(svc.CapAdd, svc.CapDrop)
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(in)
	if err != nil {
		return nil, err
	}
	cwd := svc.WorkingDir
	if cwd == "" {
		cwd = in.image.WorkingDir
	}
	if cwd = path.Clean("/" + cwd); strings.ContainsRune(cwd, 0) {
		return nil, fmt.Errorf("working directory %q: it holds a zero byte", cwd)
	}
	score := serviceScore
	s := &specs.Spec{
		Version:  "1.0.2",
		Hostname: in.hostname,
		Root:     &specs.Root{Path: in.rootfs, Readonly: !svc.Writable},
		Mounts:   mounts,
		Process: &specs.Process{
			User: in.user, Args: args, Cwd: cwd,
			Env:             environment(svc, in.image, in.home),
			NoNewPrivileges: true,
			OOMScoreAdj:     &score,
			// No ambient set: a program that is not root gets none of them by exec.
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: in.noFile, Hard: in.noFile}, {Type: "RLIMIT_CORE"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace}, {Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: in.netns},
			},
			Seccomp: seccomp(caps),
			// Whole-machine knobs and leaks that /proc and /sys show in every namespace.
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
				"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/firmware", "/sys/devices/virtual/powercap"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			// The network namespace is the container's own, so a user other than root may listen anywhere.
			Sysctl:            map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"},
			RootfsPropagation: "private",
		},
	}
	if in.cgroup != "" {
		s.Linux.CgroupsPath = in.cgroup
		if s.Linux.Resources, err = resources(svc.Limits); err != nil {
			return nil, err
		}
		if len(svc.Floating) > 0 {
			shares := uint64(answeringShares)
			if s.Linux.Resources.CPU == nil {
				s.Linux.Resources.CPU = &specs.LinuxCPU{}
			}
			s.Linux.Resources.CPU.Shares = &shares
		}
	}
	return s, nil
}

func command(svc *cluster.Service, image v1.Config) ([]string, error) {
	entrypoint, cmd := svc.Entrypoint, svc.Command
	if entrypoint == nil {
		entrypoint = image.Entrypoint
		if cmd == nil {
			cmd = image.Cmd
		}
	} // an entrypoint of the service's own makes the image's command meaningless, as in Docker
	args := slices.Concat(entrypoint, cmd)
	if len(args) == 0 || args[0] == "" {
		return nil, fmt.Errorf("neither the image nor the service says what to run; set 'command' in the Compose file")
	}
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return nil, fmt.Errorf("command %q: an argument holds a zero byte", args)
		}
	}
	return args, nil
}

func environment(svc *cluster.Service, image v1.Config, home string) []string {
	env := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home}
	for _, kv := range image.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	maps.Copy(env, svc.Env)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if kv := k + "=" + env[k]; !strings.ContainsRune(kv, 0) {
			out = append(out, kv)
		}
	}
	return out
}

func mounts(in specInput) ([]specs.Mount, error) {
	svc := &in.instance.Spec
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	if in.cgroup != "" {
		out = append(out, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
			Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
	}
	for _, f := range []string{"resolv.conf", "hosts", "hostname"} {
		out = append(out, bind(path.Join(in.etc, f), "/etc/"+f))
	}
	for _, t := range svc.Tmpfs {
		target, options, _ := strings.Cut(t, ":")
		if err := checkTarget(target); err != nil {
			return nil, fmt.Errorf("tmpfs %q: %w", t, err)
		}
		m := specs.Mount{Destination: path.Clean(target), Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}}
		for _, o := range strings.Split(options, ",") {
			switch k, _, _ := strings.Cut(o, "="); k {
			case "":
			case "size", "mode", "uid", "gid", "nr_inodes", "noexec", "ro":
				m.Options = append(m.Options, o)
			default:
				return nil, fmt.Errorf("tmpfs %q: option %q is not one of size, mode, uid, gid, nr_inodes, noexec, ro", t, o)
			}
		}
		out = append(out, m)
	}
	for _, v := range svc.Volumes {
		if v.Target == "" {
			continue
		}
		if err := checkTarget(v.Target); err != nil {
			return nil, fmt.Errorf("volume %s at %q: %w", v.Name, v.Target, err)
		}
		if in.volumes == "" || !plainName(v.Name) {
			return nil, fmt.Errorf("volume %q: this node has no place for it", v.Name)
		}
		// Private: the node must be able to unmount it as soon as the container has gone.
		m := specs.Mount{Destination: path.Clean(v.Target), Type: "bind", Source: path.Join(in.volumes, v.Name, "data"), Options: []string{"bind", "nosuid", "nodev", "rprivate"}}
		if v.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		out = append(out, m)
	}
	for _, u := range svc.Shares {
		if err := checkTarget(u.Target); err != nil {
			return nil, fmt.Errorf("folder %s at %q: %w", u.Folder, u.Target, err)
		}
		if in.shared == "" || !plainName(u.Name) || !plainName(u.Folder) {
			return nil, fmt.Errorf("folder %q of shared file system %q: this node has no place for it", u.Folder, u.Name)
		}
		m := specs.Mount{Destination: path.Clean(u.Target), Type: "bind", Source: path.Join(in.shared, u.Name, u.Folder), Options: []string{"bind", "nosuid", "nodev", "rprivate"}}
		if u.ReadOnly {
			m.Options = append(m.Options, "ro")
		}
		out = append(out, m)
	}
	for i, f := range svc.Files {
		if err := checkTarget(f.Target); err != nil {
			return nil, fmt.Errorf("config %q: %w", f.Target, err)
		}
		m := bind(in.files[i], path.Clean(f.Target))
		if f.Mode&0o111 != 0 { // a script, as Compose files have them for an entrypoint
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "noexec" })
		}
		out = append(out, m)
	}
	return out, nil
}

// checkTarget refuses mount points over what confines the container. That a link of the image leads
// elsewhere is crun's to prevent: it resolves inside the root.
func checkTarget(target string) error {
	p := path.Clean(target)
	if !path.IsAbs(target) || p == "/" || strings.ContainsRune(p, 0) {
		return fmt.Errorf("the target must be an absolute path below /")
	}
	for _, no := range []string{"/proc", "/sys", "/dev"} {
		if (p == no || strings.HasPrefix(p, no+"/")) && p != "/dev/shm" {
			return fmt.Errorf("nothing may be mounted over %s", no)
		}
	}
	return nil
}

func bind(source, target string) specs.Mount {
	return specs.Mount{Destination: target, Type: "bind", Source: source, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec", "rprivate"}}
}

// cpuPeriod is the kernel's default: CPU time is given out anew every 100,000 µs.
const cpuPeriod = 100_000

// serviceScore is a service's score for the out-of-memory killer: higher than any process of the machine's own,
// so that a machine whose memory runs out loses a service, which the plan starts again, and not the agent.
const serviceScore = 100

// answeringShares is the weight of a service that answers on a floating address, four times the usual one
// (1024): when a node takes over several services at once, those that somebody waits for start first.
const answeringShares = 4096

// defaultPids keeps a fork bomb from taking the node with it when the service sets no limit.
const defaultPids = 4096

func resources(l cluster.Resources) (*specs.LinuxResources, error) {
	if l.CPUs < 0 || l.Memory < 0 || l.Pids < 0 {
		return nil, fmt.Errorf("limits %+v: a limit is negative", l)
	}
	pids := l.Pids
	if pids == 0 {
		pids = defaultPids
	}
	r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}
	if l.CPUs > 0 {
		// The kernel takes no quota under 1 ms.
		quota, period := max(int64(l.CPUs*cpuPeriod), 1000), uint64(cpuPeriod)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if l.Memory > 0 {
		m := l.Memory
		r.Memory = &specs.LinuxMemory{Limit: &m, Swap: &m} // equal: no swap on top
	}
	return r, nil
}

// plainName tells whether a name is one of a file in a folder, and of no other.
func plainName(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}
