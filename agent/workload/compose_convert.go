package workload

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/skein-os/skein/agent/cluster"
)

// Defaults where the Compose file says nothing.
const (
	DefaultHealthInterval  = 30 * time.Second // Compose's own, as the next three; see also DefaultStopGrace
	DefaultHealthTimeout   = 30 * time.Second
	DefaultHealthRetries   = 3
	DefaultStartInterval   = 5 * time.Second
	DefaultRestartDelay    = time.Second // doubled at each attempt
	DefaultRestartAttempts = 3           // then the planner tries another node
	DefaultRestartWindow   = time.Minute

	maxFiles    = 512 << 10 // bytes of all configs of a service: they travel in the ledger
	maxService  = 1 << 20   // bytes of a service as JSON: it is one record of the ledger
	maxReplicas = 10_000
)

// Hash is the digest of what an instance is made from: when it changes, instances are replaced. The
// number of replicas is not part of it. Call it again after setting ImageDigest.
func Hash(s *cluster.Service) string {
	c := *s
	c.Replicas, c.Hash, c.Revision = 0, "", 0
	c.Update, c.Rollback = nil, nil // how it is replaced is no reason to replace it
	c.Volumes = slices.Clone(c.Volumes)
	for i := range c.Volumes { // where it is written, and what the ledger knows of it, is no reason to replace it
		v := &c.Volumes[i]
		v.Disk, v.FS, v.UUID, v.Asked = "", "", "", nil
	}
	c.Shares = slices.Clone(c.Shares)
	for i := range c.Shares {
		c.Shares[i].Name, c.Shares[i].At = "", ""
	}
	b, err := json.Marshal(&c) // canonical: struct fields in order, map keys sorted
	if err != nil {
		panic("workload: a service that is no JSON: " + err.Error()) // only NaN could do that, Parse lets none in
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// services makes ours of compose-go's, sorted by name.
func (f *file) services(project *types.Project, root map[string]any) []cluster.Service {
	var out []cluster.Service
	holder := map[string]string{} // address:port/protocol -> service
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		cs := project.Services[name]
		p := "services." + name
		tree, _ := root["services"].(map[string]any)[name].(map[string]any)
		s := cluster.Service{
			Stack: project.Name, Name: name,
			Image: cs.Image, Entrypoint: cs.Entrypoint, Command: cs.Command,
			User: cs.User, WorkingDir: cs.WorkingDir, Hostname: cs.Hostname,
			StopSignal: cs.StopSignal, StopGrace: DefaultStopGrace, Safety: cluster.SafetyLease,
			CapAdd: cs.CapAdd, CapDrop: cs.CapDrop,
			Writable: tree["read_only"] != nil && !cs.ReadOnly,
		}
		if cs.StopGracePeriod != nil {
			s.StopGrace = time.Duration(*cs.StopGracePeriod)
		}
		for k, v := range cs.Environment {
			if v != nil {
				put(&s.Env, k, *v)
			}
		}
		for k, v := range cs.Labels {
			put(&s.Labels, k, v)
		}
		f.mode(&s, p, &cs)
		f.restart(&s, p, &cs)
		f.updates(&s, p, &cs)
		x, _ := cs.Extensions["x-skein"].(map[string]any)
		f.health(&s, p, cs.HealthCheck, x["health"] != nil)
		f.resources(&s, p, &cs)
		written, _ := tree["ports"].([]any)
		f.ports(&s, p, cs.Ports, len(written) == len(cs.Ports))
		f.mounts(&s, p, &cs, project)
		f.files(&s, p, cs.Configs, project.Configs)
		f.extension(&s, p, cs.Extensions["x-skein"])
		for _, a := range s.Floating {
			for _, port := range s.Ports {
				key := fmt.Sprintf("%s port %d/%s", a, port.Published, port.Protocol)
				if other := holder[key]; other != "" {
					f.fail(p+".x-skein.addresses", "%s is already published by service %s: choose another port or address", key, other)
				}
				holder[key] = name
			}
		}
		if b, err := json.Marshal(&s); err != nil || len(b) > maxService {
			f.fail(p, "the service is too large: %d bytes with its configs, environment, labels and ports, at most %d", len(b), maxService)
			continue
		}
		s.Hash = Hash(&s)
		out = append(out, s)
	}
	if len(out) == 0 && !f.failed() {
		f.fail("services", "no service is left to deploy: all have profiles")
	}
	return out
}

func put(m *map[string]string, k, v string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[k] = v
}

func (f *file) mode(s *cluster.Service, p string, cs *types.ServiceConfig) {
	mode := ""
	if cs.Deploy != nil {
		mode = cs.Deploy.Mode
		for k, v := range cs.Deploy.Labels {
			put(&s.Labels, k, v)
		}
		for i, c := range cs.Deploy.Placement.Constraints {
			f.constraint(s, p+".deploy.placement.constraints."+itoa(i), c)
		}
	}
	s.Replicas = cs.GetScale()
	switch mode {
	case "", "replicated":
		s.Mode = cluster.ModeReplicated
	case "replicated-job":
		s.Mode = cluster.ModeJob
	case "global":
		s.Mode, s.Replicas = cluster.ModeGlobal, 0
		if cs.Scale != nil || cs.Deploy.Replicas != nil {
			f.warn(p+".deploy.mode", "global means one instance on each node: replicas has no effect")
		}
	default:
		f.fail(p+".deploy.mode", "%q is not one of replicated, global, replicated-job", mode)
	}
	if s.Replicas < 0 || s.Replicas > maxReplicas {
		f.fail(p+".deploy.replicas", "%d is not between 0 and %d", s.Replicas, maxReplicas)
	}
}

// constraintForm is what the planner understands.
var constraintForm = regexp.MustCompile(`^(node\.hostname|node\.labels\.[A-Za-z0-9_.-]+)\s*(==|!=)\s*(\S(?:.*\S)?)$`)

func (f *file) constraint(s *cluster.Service, p, text string) {
	m := constraintForm.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		f.fail(p, "%q is no constraint: write \"node.labels.NAME == VALUE\" or \"node.hostname != NAME\"", text)
		return
	}
	s.Constraints = append(s.Constraints, m[1]+" "+m[2]+" "+m[3])
}

// updates reads how instances are replaced.
func (f *file) updates(s *cluster.Service, p string, cs *types.ServiceConfig) {
	if cs.Deploy == nil {
		return
	}
	read := func(p string, c *types.UpdateConfig, actions ...cluster.FailureAction) *cluster.UpdatePolicy {
		if c == nil {
			return nil
		}
		u := cluster.DefaultUpdate
		if c.Parallelism != nil {
			u.Parallelism = int(min(*c.Parallelism, maxReplicas))
		}
		u.Delay = time.Duration(c.Delay)
		if c.Monitor != 0 {
			u.Monitor = time.Duration(c.Monitor)
		}
		if u.MaxFailureRatio = float64(c.MaxFailureRatio); !(u.MaxFailureRatio >= 0 && u.MaxFailureRatio <= 1) {
			f.fail(p+".max_failure_ratio", "%v is not between 0 and 1", c.MaxFailureRatio)
		}
		if c.FailureAction != "" {
			if u.FailureAction = cluster.FailureAction(c.FailureAction); !slices.Contains(actions, u.FailureAction) {
				f.fail(p+".failure_action", "%q is not one of %v", c.FailureAction, actions)
			}
		}
		switch c.Order {
		case "", "stop-first":
		case "start-first":
			u.StartFirst = true
			if s.Mode != cluster.ModeReplicated {
				f.warn(p+".order", "start-first is for replicated services: an old instance is stopped before a new one runs")
			}
		default:
			f.fail(p+".order", "%q is not one of stop-first, start-first", c.Order)
		}
		return &u
	}
	s.Update = read(p+".deploy.update_config", cs.Deploy.UpdateConfig, cluster.FailurePause, cluster.FailureContinue, cluster.FailureRollback)
	s.Rollback = read(p+".deploy.rollback_config", cs.Deploy.RollbackConfig, cluster.FailurePause, cluster.FailureContinue)
}

func (f *file) restart(s *cluster.Service, p string, cs *types.ServiceConfig) {
	s.Restart = cluster.Restart{Condition: "any", Delay: DefaultRestartDelay, MaxAttempts: DefaultRestartAttempts, Window: DefaultRestartWindow}
	if s.Mode == cluster.ModeJob {
		s.Restart.Condition = "on-failure"
	}
	switch kind, count, _ := strings.Cut(cs.Restart, ":"); kind {
	case "":
	case "no":
		s.Restart.Condition = "none"
	case "always", "unless-stopped":
		s.Restart.Condition = "any"
	case "on-failure":
		s.Restart.Condition = "on-failure"
		if count != "" {
			n, err := strconv.Atoi(count)
			if err != nil || n < 0 {
				f.fail(p+".restart", "%q: write on-failure or on-failure:3", cs.Restart)
			}
			s.Restart.MaxAttempts = n
		}
	default:
		f.fail(p+".restart", "%q is not one of no, always, on-failure, unless-stopped; a bare no must be quoted: \"no\"", cs.Restart)
	}
	if cs.Deploy != nil && cs.Deploy.RestartPolicy != nil {
		rp := cs.Deploy.RestartPolicy
		switch rp.Condition {
		case "":
		case "any", "on-failure", "none":
			s.Restart.Condition = rp.Condition
		default:
			f.fail(p+".deploy.restart_policy.condition", "%q is not one of any, on-failure, none", rp.Condition)
		}
		if rp.Delay != nil {
			s.Restart.Delay = time.Duration(*rp.Delay)
		}
		if rp.MaxAttempts != nil {
			if *rp.MaxAttempts > 1000 {
				f.fail(p+".deploy.restart_policy.max_attempts", "%d is more than 1000; 0 means without end", *rp.MaxAttempts)
			}
			s.Restart.MaxAttempts = int(min(*rp.MaxAttempts, 1000))
		}
		if rp.Window != nil {
			s.Restart.Window = time.Duration(*rp.Window)
		}
	}
	if s.Mode == cluster.ModeJob && s.Restart.Condition == "any" {
		f.fail(p, "a job that restarts always never completes: use restart_policy condition on-failure or none")
	}
}

// health reads healthcheck; probed tells that x-skein.health brings the test.
func (f *file) health(s *cluster.Service, p string, hc *types.HealthCheckConfig, probed bool) {
	if hc == nil || hc.Disable || len(hc.Test) > 0 && hc.Test[0] == "NONE" {
		return
	}
	p += ".healthcheck"
	if probed && len(hc.Test) > 0 {
		f.warn(p+".test", "has no effect: x-skein.health is used")
	}
	if !probed && (len(hc.Test) < 2 || hc.Test[0] != "CMD" && hc.Test[0] != "CMD-SHELL") {
		f.fail(p, "needs test: with a command, like test: [\"CMD\", \"/bin/check\"]; the image's own check is not used")
		return
	}
	h := cluster.HealthCheck{Test: hc.Test, Interval: DefaultHealthInterval, Timeout: DefaultHealthTimeout,
		StartInterval: DefaultStartInterval, Retries: DefaultHealthRetries}
	for _, d := range []struct {
		from *types.Duration
		to   *time.Duration
	}{{hc.Interval, &h.Interval}, {hc.Timeout, &h.Timeout}, {hc.StartPeriod, &h.StartPeriod}, {hc.StartInterval, &h.StartInterval}} {
		if d.from != nil && (*d.from > 0 || d.to == &h.StartPeriod) {
			*d.to = time.Duration(*d.from) // 0 means the default, as in Compose
		}
	}
	if hc.Retries != nil && *hc.Retries > 0 {
		h.Retries = int(min(*hc.Retries, 1000))
	}
	s.Health = &h
}

func (f *file) resources(s *cluster.Service, p string, cs *types.ServiceConfig) {
	s.Limits = cluster.Resources{CPUs: round(cs.CPUS), Memory: int64(cs.MemLimit), Pids: cs.PidsLimit}
	s.Reserve = cluster.Resources{Memory: int64(cs.MemReservation)}
	if cs.Deploy != nil {
		take := func(to *cluster.Resources, r *types.Resource) {
			if r == nil {
				return
			}
			to.CPUs = cmp.Or(round(r.NanoCPUs.Value()), to.CPUs)
			to.Memory = cmp.Or(int64(r.MemoryBytes), to.Memory)
			to.Pids = cmp.Or(r.Pids, to.Pids)
		}
		take(&s.Limits, cs.Deploy.Resources.Limits)
		take(&s.Reserve, cs.Deploy.Resources.Reservations)
	}
	s.Limits.Pids = max(s.Limits.Pids, 0) // -1: no limit
	s.Reserve.Pids = 0
	rp := p + ".deploy.resources"
	limit := rp + ".limits.memory"
	if _, written := f.pos[limit]; !written {
		limit = p + ".mem_limit"
	}
	for _, r := range []*cluster.Resources{&s.Limits, &s.Reserve} {
		if !(r.CPUs >= 0 && r.CPUs <= 4096) {
			f.fail(rp, "%v cpus: write cores, like 0.5", r.CPUs)
			r.CPUs = 0
		}
	}
	if s.Limits.Memory > 0 && s.Limits.Memory < 6<<20 {
		f.fail(limit, "%d bytes is too little to start any container: at least 6M", s.Limits.Memory)
	}
	if s.Limits.Memory > 0 && s.Reserve.Memory > s.Limits.Memory {
		f.fail(rp+".reservations.memory", "reserves more than the limit allows")
	}
	if s.Limits.CPUs > 0 && s.Reserve.CPUs > s.Limits.CPUs {
		f.fail(rp+".reservations.cpus", "reserves more than the limit allows")
	}
}

// round undoes compose-go's float32: 0.1 shall be 0.1, in the hash too.
func round(v float32) float64 {
	d, _ := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', 6, 32), 64)
	return d
}

func (f *file) ports(s *cluster.Service, p string, ports []types.ServicePortConfig, inOrder bool) {
	seen := map[string]bool{}
	for i, cp := range ports {
		pp := p + ".ports"
		if inOrder { // a range became several ports otherwise
			pp += "." + itoa(i)
		}
		if cp.HostIP != "" {
			f.fail(pp, "%s", refusedKeys["services.*.ports.[].host_ip"])
			continue
		}
		protocol := cmp.Or(cp.Protocol, "tcp")
		if protocol != "tcp" && protocol != "udp" {
			f.fail(pp, "protocol %q is not one of tcp, udp", protocol)
			continue
		}
		if cp.Target < 1 || cp.Target > 65535 {
			f.fail(pp, "target port %d is not between 1 and 65535", cp.Target)
			continue
		}
		published := uint64(cp.Target)
		if cp.Published != "" {
			n, err := strconv.ParseUint(cp.Published, 10, 16)
			if err != nil || n == 0 {
				f.fail(pp, "published port %q must be one number between 1 and 65535", cp.Published)
				continue
			}
			published = n
		}
		key := fmt.Sprintf("%d/%s", published, protocol)
		if seen[key] {
			f.fail(pp, "port %s is published twice", key)
		}
		seen[key] = true
		s.Ports = append(s.Ports, cluster.Port{Target: uint16(cp.Target), Published: uint16(published), Protocol: protocol})
	}
}

func (f *file) mounts(s *cluster.Service, p string, cs *types.ServiceConfig, project *types.Project) {
	for i, t := range cs.Tmpfs {
		target, options, _ := strings.Cut(t, ":")
		tp := p + ".tmpfs." + itoa(i)
		if !f.checkTarget(tp, target) {
			continue
		}
		for _, o := range strings.Split(options, ",") {
			k, _, _ := strings.Cut(o, "=")
			if !slices.Contains([]string{"", "size", "mode", "uid", "gid", "nr_inodes", "noexec", "ro"}, k) {
				f.fail(tp, "option %q is not one of size, mode, uid, gid, nr_inodes, noexec, ro", o)
			}
		}
		s.Tmpfs = append(s.Tmpfs, t)
	}
	for i, v := range cs.Volumes {
		vp := p + ".volumes." + itoa(i)
		if v.Type == types.VolumeTypeVolume {
			f.volume(s, vp, &v, project)
			continue
		}
		if v.Type != types.VolumeTypeTmpfs { // of an extended service; others were refused before
			f.fail(vp, "%s", noBind)
			continue
		}
		if !f.checkTarget(vp, v.Target) {
			continue
		}
		t := v.Target
		if v.Tmpfs != nil {
			var options []string
			if v.Tmpfs.Size > 0 {
				options = append(options, fmt.Sprintf("size=%d", v.Tmpfs.Size))
			}
			if v.Tmpfs.Mode > 0 {
				options = append(options, fmt.Sprintf("mode=%o", v.Tmpfs.Mode))
			}
			if len(options) > 0 {
				t += ":" + strings.Join(options, ",")
			}
		}
		s.Tmpfs = append(s.Tmpfs, t)
	}
}

func (f *file) files(s *cluster.Service, p string, uses []types.ServiceConfigObjConfig, configs types.Configs) {
	total := 0
	for i, u := range uses {
		up, dp := p+".configs."+itoa(i), "configs."+u.Source
		file := cluster.File{Target: cmp.Or(u.Target, "/"+u.Source), Mode: 0o444}
		if u.Mode != nil {
			file.Mode = uint32(*u.Mode)
			if file.Mode > 0o777 {
				f.fail(up, "mode %#o is not between 0 and 0777: write it in octal, like 0444", file.Mode)
			}
		}
		if !f.checkTarget(up, file.Target) {
			continue
		}
		switch c := configs[u.Source]; {
		case c.Content != "":
			file.Content = []byte(c.Content)
		case c.Environment != "":
			v, ok := f.env[c.Environment]
			if !ok {
				f.fail(dp+".environment", "the variable %s is not set", c.Environment)
				continue
			}
			file.Content = []byte(v)
		case c.File != "":
			data, err := readSmall(f.beside(c.File))
			if err != nil {
				f.fail(dp+".file", "%v", err)
				continue
			}
			file.Content = data
		default:
			f.fail(dp, "has no content: add content: or file:")
			continue
		}
		if total += len(file.Content); total > maxFiles {
			f.fail(up, "the configs of one service may have %d bytes together: put larger files into the image", maxFiles)
			return
		}
		s.Files = append(s.Files, file)
	}
}

// readSmall reads a regular file of at most maxFiles bytes.
func readSmall(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the config: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxFiles {
		return nil, fmt.Errorf("config %s must be a regular file of at most %d bytes", name, maxFiles)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the config: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFiles+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the config: %w", err)
	}
	return data, nil
}

// extension reads x-skein.
func (f *file) extension(s *cluster.Service, p string, v any) {
	if v == nil {
		return
	}
	p += ".x-skein"
	m, ok := v.(map[string]any)
	if !ok {
		f.fail(p, "must be a mapping with addresses:, health: and safety:")
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch v := m[k]; k {
		case "addresses":
			list, ok := v.([]any)
			if !ok {
				f.fail(p+".addresses", "must be a list, like [10.77.9.10]")
				continue
			}
			for i, e := range list {
				a, err := netip.ParseAddr(fmt.Sprint(e))
				if err != nil || a.Zone() != "" || !a.IsGlobalUnicast() {
					f.fail(p+".addresses."+itoa(i), "%q is no address that a service can have: write it like 10.77.9.10, without a prefix length", fmt.Sprint(e))
					continue
				}
				if slices.Contains(s.Floating, a) {
					f.fail(p+".addresses."+itoa(i), "%s is here twice", a)
					continue
				}
				s.Floating = append(s.Floating, a)
			}
		case "safety":
			switch has := len(s.Volumes) > 0; {
			case has && v != "storage":
				f.fail(p+".safety", "a service with a volume has safety storage, not %q: its disk is taken from a lost owner before it runs elsewhere; remove this line", fmt.Sprint(v))
			case !has && v == "storage":
				f.fail(p+".safety", "storage is for a service with a volume, and this one has none")
			case v == "lease" || v == "power" || v == "storage":
				s.Safety = cluster.Safety(v.(string))
			default:
				f.fail(p+".safety", "%q is not one of lease, power", fmt.Sprint(v))
			}
		case "health":
			test, err := healthURL(fmt.Sprint(v))
			if err != nil {
				f.fail(p+".health", "%v", err)
				continue
			}
			if s.Health == nil {
				s.Health = &cluster.HealthCheck{Interval: DefaultHealthInterval, Timeout: DefaultHealthTimeout,
					StartInterval: DefaultStartInterval, Retries: DefaultHealthRetries}
			}
			s.Health.Test = test
		default:
			text := "unknown key; there are addresses, health and safety"
			if near := nearest(k, []string{"addresses", "health", "safety"}); near != "" {
				text = "unknown key; did you mean " + near + "?"
			}
			f.fail(p+"."+k, "%s", text)
		}
	}
}

// healthURL reads x-skein.health: a check that the node makes over the container's network.
func healthURL(text string) ([]string, error) {
	u, err := url.Parse(text)
	bad := fmt.Errorf("%q must be like http://:80/health or tcp://:5432, without a host: the container is asked", text)
	if err != nil || u.Hostname() != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, bad
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
		return nil, bad
	}
	switch {
	case u.Scheme == "http":
		return []string{cluster.HealthHTTP, u.Port(), cmp.Or(u.EscapedPath(), "/")}, nil
	case u.Scheme == "tcp" && u.Path == "":
		return []string{cluster.HealthTCP, u.Port()}, nil
	}
	return nil, bad
}
