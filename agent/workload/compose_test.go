package workload

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/cluster"
)

func parse(t testing.TB, text string, env map[string]string) ([]cluster.Service, []Warning, error) {
	t.Helper()
	return Parse(context.Background(), "compose.yaml", []byte(text), "shop", env)
}

func TestWholeFile(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"site.conf": "listen 80;\n", "web.env": "FROM_FILE=1\nCOLOUR=red\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile("testdata/whole.yaml")
	if err != nil {
		t.Fatal(err)
	}
	services, warnings, err := Parse(context.Background(), filepath.Join(dir, "compose.yaml"), data, "shop",
		map[string]string{"TAG": "1.2", "COUNT": "3", "GREETING": "pay $5"})
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) != 0 {
		t.Errorf("got warnings %v, want none", warnings)
	}
	want := []cluster.Service{
		{
			Stack: "shop", Name: "media", Mode: cluster.ModeGlobal, Safety: cluster.SafetyLease, Image: "demo/media",
			StopGrace: 10 * time.Second, Restart: cluster.Restart{Condition: "any", Delay: time.Second, MaxAttempts: 3, Window: time.Minute},
			Ports: []cluster.Port{{Target: 9000, Published: 9000, Protocol: "tcp"}},
			Env:   map[string]string{"SHARED": "yes"},
		},
		{
			Stack: "shop", Name: "report", Mode: cluster.ModeJob, Replicas: 1, Safety: cluster.SafetyPower, Image: "demo/report:1",
			StopGrace: 10 * time.Second, Restart: cluster.Restart{Condition: "on-failure", Delay: 2 * time.Second, MaxAttempts: 5, Window: time.Minute},
			Env: map[string]string{"SHARED": "yes", "EXTRA": "1"},
		},
		{
			Stack: "shop", Name: "web", Mode: cluster.ModeReplicated, Replicas: 3, Safety: cluster.SafetyLease,
			Image: "demo/web:1.2", Entrypoint: []string{"/usr/sbin/nginx"}, Command: []string{"-g", "daemon off;"},
			Env:  map[string]string{"FROM_FILE": "1", "COLOUR": "blue", "GREETING": "pay $5", "PRICE": "$9", "OCTAL": "0123", "ON": "true"},
			User: "33:33", WorkingDir: "/srv", Hostname: "web", Labels: map[string]string{"team": "shop", "tier": "front"},
			Tmpfs: []string{"/run:size=8M", "/cache:size=1048576,mode=1777"}, Writable: true,
			CapAdd: []string{"NET_BIND_SERVICE"}, CapDrop: []string{"ALL"},
			Files: []cluster.File{
				{Target: "/etc/nginx/site.conf", Mode: 0o440, Content: []byte("listen 80;\n")},
				{Target: "/motd", Mode: 0o444, Content: []byte("hello 1.2, $9\n")},
			},
			StopSignal: "SIGQUIT", StopGrace: 90 * time.Second,
			Limits:      cluster.Resources{CPUs: 0.5, Memory: 64 << 20, Pids: 100},
			Reserve:     cluster.Resources{CPUs: 0.1, Memory: 32 << 20},
			Health:      &cluster.HealthCheck{Test: []string{"CMD-SHELL", "wget -q localhost"}, Interval: 2 * time.Second, Timeout: time.Second, StartPeriod: 5 * time.Second, StartInterval: 5 * time.Second, Retries: 2},
			Restart:     cluster.Restart{Condition: "on-failure", Delay: 500 * time.Millisecond, MaxAttempts: 0, Window: 2 * time.Minute},
			Constraints: []string{"node.labels.disk == ssd", "node.hostname != n1"},
			Ports:       []cluster.Port{{Target: 80, Published: 8080, Protocol: "tcp"}, {Target: 53, Published: 53, Protocol: "udp"}, {Target: 443, Published: 8443, Protocol: "tcp"}},
		},
	}
	want[2].Floating = addrs("10.77.9.10", "10.77.9.11")
	for i := range services {
		if services[i].Hash == "" || services[i].Hash != Hash(&services[i]) {
			t.Errorf("%s: got hash %q, want that of the service", services[i].Name, services[i].Hash)
		}
		services[i].Hash = ""
	}
	if diff := cmp.Diff(want, services, cmp.Comparer(sameAddr)); diff != "" {
		t.Errorf("services differ (-want +got):\n%s", diff)
	}
}

// one makes a file with one service of these lines.
func one(lines ...string) string {
	return "services:\n  web:\n    image: demo/web\n    " + strings.Join(lines, "\n    ") + "\n"
}

func TestBrokenFiles(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"empty", "", `compose.yaml:1:1: the file is empty: it needs services`},
		{"only a comment", "# nothing\n", `compose.yaml:1:1: the file is empty: it needs services`},
		{"a list", "- web\n", `compose.yaml:1:1: a Compose file is a mapping that begins with services:, this is a list`},
		{"no services", "x-a: 1\n", `compose.yaml:1:1: the file has no services: write services: and below it each service by name`},
		{"services empty", "services:\n", `compose.yaml:1:1: services: must be a mapping of service names, with at least one`},
		{"two documents", "services: {}\n---\na: 1\n", `compose.yaml:3:1: a second document begins here: a Compose file has one, remove the ---`},
		{"not UTF-8", "services:\n  \xff: 1\n", `compose.yaml:2:3: not valid UTF-8: save the file as UTF-8 text`},
		{"tab", "services:\n  web:\n\timage: demo/web\n", `compose.yaml:3:1: indented with a tab: YAML allows only spaces, replace it by two or more spaces`},
		{"tab after spaces", "services:\n  web:\n    image: demo/web\n  \tuser: x\n", `compose.yaml:4:3: indented with a tab: YAML allows only spaces, replace it by two or more spaces`},
		{"two colons", "services:\n  web:\n    image: demo: web\n", `compose.yaml:3:12: not valid YAML: mapping values are not allowed in this context; there is a second colon in the line, or the line above should end with one; quote values that contain ": "`},
		{"open quote", "services:\n  web:\n    image: \"demo\n", `compose.yaml:3:12: not valid YAML: found unexpected end of stream; a quote or bracket is not closed`},
		{"no such anchor", "services:\n  web: *base\n", `compose.yaml:1:1: not valid YAML: unknown anchor 'base' referenced; an alias (*name) needs an anchor (&name) above it; quote a value that begins with *`},
		{"unknown key", one("enviroment: {A: b}"), `compose.yaml:4:5: services.web.enviroment: unknown key; did you mean environment?`},
		{"unknown key, deeper", one("deploy:", "  resources:", "    limits: {memroy: 5M}"), `compose.yaml:6:18: services.web.deploy.resources.limits.memroy: unknown key; did you mean memory?`},
		{"unknown key, no idea", one("wibble: 1"), `compose.yaml:4:5: services.web.wibble: unknown key; remove it, or begin it with x- if it is a note of yours`},
		{"service at the top", "web:\n  image: demo/web\n", `compose.yaml:1:1: web: unknown key; services are written below services:`},
		{"duplicate key", one("user: a", "user: b"), `compose.yaml:5:5: services.web.user: the key user is here twice, the first time in line 4: remove one`},
		{"duplicate service", "services:\n  web: {image: a}\n  web: {image: b}\n", `compose.yaml:3:3: services.web: the key web is here twice, the first time in line 2: remove one`},
		{"missing image", "services:\n  web:\n    user: www\n", `compose.yaml:2:3: services.web: the service has no image: add image: NAME:TAG ("skein image ls" shows those that are loaded)`},
		{"bad image", "services:\n  web:\n    image: Demo/Web\n", `compose.yaml:3:5: services.web.image: "Demo/Web" is no image name: invalid reference format: repository name (Web) must be lowercase; write NAME:TAG or HOST/NAME:TAG, in lower case`},
		{"service is text", "services:\n  web: nginx\n", `compose.yaml:2:3: services.web: must be a mapping of keys like image:, indented below the name`},
		{"service name", "services:\n  My_Web: {image: a}\n", `compose.yaml:2:3: services.My_Web: a service's name must be lower-case letters, digits and dashes: others find it by this name in the DNS`},
		{"wrong type: mapping", one("deploy: 3"), `compose.yaml:4:5: services.web.deploy: must be a mapping; write key: value lines, indented below it`},
		{"wrong type: list", one("ports: 80"), `compose.yaml:4:5: services.web.ports: must be a list; write one item a line, each after a dash`},
		{"wrong type: number", one("deploy:", "  replicas: many"), `compose.yaml:5:7: services.web.deploy.replicas: "many" is not a number`},
		{"wrong type: bool", one("read_only: maybe"), `compose.yaml:4:5: services.web.read_only: "maybe" is neither true nor false`},
		{"port", one("ports:", "  - 99999:80"), `compose.yaml:5:9: services.web.ports.0: "99999:80" is no port: invalid hostPort: 99999; write PUBLISHED:TARGET like "8080:80" or "53:53/udp"`},
		{"port, second", one("ports: [\"80\", \"http:80\"]"), `compose.yaml:4:19: services.web.ports.1: "http:80" is no port: invalid hostPort: http; write PUBLISHED:TARGET like "8080:80" or "53:53/udp"`},
		{"port, long form", one("ports:", "  - target: 0"), `compose.yaml:5:9: services.web.ports.0: target port 0 is not between 1 and 65535`},
		{"port twice", one("ports: [\"80:80\", \"80:81\"]"), `compose.yaml:4:22: services.web.ports.1: port 80/tcp is published twice`},
		{"port of the host", one("ports: [\"127.0.0.1:80:80\"]"), `compose.yaml:4:13: services.web.ports.0: nodes are interchangeable: give the service an address with x-skein: {addresses: [...]}`},
		{"sctp", one("ports: [\"80:80/sctp\"]"), `compose.yaml:4:13: services.web.ports.0: protocol "sctp" is not one of tcp, udp`},
		{"duration", one("stop_grace_period: soon"), `compose.yaml:4:5: services.web.stop_grace_period: "soon" is no duration: write it like 10s, 1m30s or 500ms`},
		{"duration without unit", one("healthcheck:", "  test: x", "  interval: 10"), `compose.yaml:6:7: services.web.healthcheck.interval: "10" is no duration: write it like 10s, 1m30s or 500ms`},
		{"size", one("mem_limit: lots"), `compose.yaml:4:5: services.web.mem_limit: "lots" is no size: write it like 64M or 1G`},
		{"too little memory", one("mem_limit: 1M"), `compose.yaml:4:5: services.web.mem_limit: 1048576 bytes is too little to start any container: at least 6M`},
		{"reserve over limit", one("deploy:", "  resources:", "    limits: {memory: 10M}", "    reservations: {memory: 20M}"), `compose.yaml:7:24: services.web.deploy.resources.reservations.memory: reserves more than the limit allows`},
		{"build", "services:\n  web:\n    build: .\n    image: demo/web\n", `compose.yaml:3:5: services.web.build: not possible here: Skein runs images and builds none: build the image, load it with "skein image load", and name it with image:`},
		{"bind", one("volumes:", "  - ./data:/data"), `compose.yaml:5:9: services.web.volumes.0: a folder of a node stays behind when the service moves: use a volume (volumes: {data: {driver: skein}} and data:/path here), tmpfs for scratch data, configs for small files`},
		{"named volume", one("volumes: [\"data:/data\"]") + "volumes: {data: {}}\n", `compose.yaml:5:11: volumes.data: it needs a driver: write data: {driver: skein} for one that moves with its service ('skein volume create' makes it); there are no volumes that stay on a node`},
		{"other driver", one("volumes: [\"data:/data\"]") + "volumes: {data: {driver: nfs}}\n", `compose.yaml:5:18: volumes.data.driver: "nfs" is not possible here: write driver: skein for a volume that moves with its service, or driver: skein-shared for a folder that all nodes see`},
		{"volume not declared", one("volumes: [\"data:/data\"]"), `compose.yaml:4:15: services.web.volumes.0: there is no volume data in this file: write volumes: {data: {driver: skein}} beside services:`},
		{"anonymous volume", one("volumes: [\"/data\"]"), `compose.yaml:4:15: services.web.volumes.0: a volume needs a name: write data:/data here and volumes: {data: {driver: skein}} beside services:, or use tmpfs for scratch data`},
		{"volume option", one("volumes: [\"data:/data\"]") + "volumes: {data: {driver: skein, driver_opts: {sise: 1G}}}\n", `compose.yaml:5:47: volumes.data.driver_opts.sise: unknown option; there are size, fs and disk`},
		{"volume's file system", one("volumes: [\"data:/data\"]") + "volumes: {data: {driver: skein, driver_opts: {fs: btrfs}}}\n", `compose.yaml:5:47: volumes.data.driver_opts.fs: "btrfs" is not one of ext4, xfs`},
		{"volume's size", one("volumes: [\"data:/data\"]") + "volumes: {data: {driver: skein, driver_opts: {size: much}}}\n", `compose.yaml:5:47: volumes.data.driver_opts.size: "much" is no size: write it like 64M or 1G`},
		{"volume of two replicas", one("volumes: [\"data:/data\"]", "scale: 2") + "volumes: {data: {driver: skein}}\n", `compose.yaml:4:15: services.web.volumes.0: a volume has one writer, so the service can have one instance only: set replicas to 1 and mode to replicated`},
		{"volume and lease", one("volumes: [\"data:/data\"]", "x-skein: {safety: lease}") + "volumes: {data: {driver: skein}}\n", `compose.yaml:5:15: services.web.x-skein.safety: a service with a volume has safety storage, not "lease": its disk is taken from a lost owner before it runs elsewhere; remove this line`},
		{"storage without volume", one("x-skein: {safety: storage}"), `compose.yaml:4:15: services.web.x-skein.safety: storage is for a service with a volume, and this one has none`},
		{"volume of two services", "services:\n  a: {image: i, volumes: [\"data:/d\"]}\n  b: {image: i, volumes: [\"data:/d\"]}\nvolumes: {data: {driver: skein}}\n", `compose.yaml:3:27: services.b.volumes.0: volume data is service a's: a volume has one service`},
		{"privileged", one("privileged: true"), `compose.yaml:4:5: services.web.privileged: not possible here: no container gets the whole machine: name what it needs in cap_add`},
		{"host network", one("network_mode: host"), `compose.yaml:4:5: services.web.network_mode: not possible here: each instance has its own network and address: remove it and publish ports`},
		{"include", "include: [other.yaml]\nservices:\n  web: {image: a}\n", `compose.yaml:1:1: include: not possible here: Skein deploys one file: write what "docker compose config" prints and deploy that`},
		{"mode", one("deploy: {mode: swarm}"), `compose.yaml:4:14: services.web.deploy.mode: "swarm" is not one of replicated, global, replicated-job`},
		{"constraint", one("deploy:", "  placement:", "    constraints: [node.role == manager]"), `compose.yaml:6:23: services.web.deploy.placement.constraints.0: "node.role == manager" is no constraint: write "node.labels.NAME == VALUE" or "node.hostname != NAME"`},
		{"restart", one("restart: sometimes"), `compose.yaml:4:5: services.web.restart: "sometimes" is not one of no, always, on-failure, unless-stopped; a bare no must be quoted: "no"`},
		{"job for ever", one("restart: always", "deploy: {mode: replicated-job}"), `compose.yaml:2:3: services.web: a job that restarts always never completes: use restart_policy condition on-failure or none`},
		{"no health command", one("healthcheck: {interval: 3s}"), `compose.yaml:4:5: services.web.healthcheck: needs test: with a command, like test: ["CMD", "/bin/check"]; the image's own check is not used`},
		{"tmpfs", one("tmpfs: [data]"), `compose.yaml:4:13: services.web.tmpfs.0: "data" must be an absolute path in the container, like /run/data`},
		{"config undefined", one("configs: [nope]"), `compose.yaml:2:3: services.web: service "web" refers to undefined config nope: invalid compose project`},
		{"config file missing", one("configs: [c]") + "configs:\n  c:\n    file: ./nope.conf\n", `compose.yaml:7:5: configs.c.file: cannot read the config: stat nope.conf: no such file or directory`},
		{"env file missing", one("env_file: nope.env"), `compose.yaml:4:5: services.web.env_file: cannot read it: stat nope.env: no such file or directory`},
		{"env file endless", one("env_file: /dev/zero"), `compose.yaml:4:5: services.web.env_file: /dev/zero must be a regular file of at most 262144 bytes`},
		{"address", one("x-skein: {addresses: [10.77.9.300]}"), `compose.yaml:4:27: services.web.x-skein.addresses.0: "10.77.9.300" is no address that a service can have: write it like 10.77.9.10, without a prefix length`},
		{"address with prefix", one("x-skein: {addresses: [10.77.9.3/24]}"), `compose.yaml:4:27: services.web.x-skein.addresses.0: "10.77.9.3/24" is no address that a service can have: write it like 10.77.9.10, without a prefix length`},
		{"x-skein key", one("x-skein: {adresses: []}"), `compose.yaml:4:15: services.web.x-skein.adresses: unknown key; did you mean addresses?`},
		{"safety", one("x-skein: {safety: none}"), `compose.yaml:4:15: services.web.x-skein.safety: "none" is not one of lease, power`},
		{"x-skein at the top", "x-skein: {}\nservices:\n  web: {image: a}\n", `compose.yaml:1:1: x-skein: x-skein belongs into a service, beside its image:`},
		{"variable required", one("user: ${WHO:?say who}"), `compose.yaml:4:11: services.web.user: the variable WHO must be set: say who`},
		{"variable broken", one("user: ${WHO"), `compose.yaml:4:11: services.web.user: "${WHO" is no valid variable reference: write ${NAME}, or $$ for a dollar sign`},
		{"foreign tag", one("user: !!binary aGk="), `compose.yaml:4:11: services.web.user: the tag !!binary has no meaning in a Compose file: remove it`},
		{"alias in itself", "x-a: &a [*a]\nservices:\n  web: {image: a}\n", `compose.yaml:1:10: alias *a contains itself`},
		{"merge of text", one("<<: hello"), `compose.yaml:4:9: << merges a mapping or a list of mappings, this is a single value`},
		{"address of two", "services:\n  a: {image: a, ports: [\"80:80\"], x-skein: {addresses: [10.77.9.1]}}\n  b: {image: b, ports: [\"80:81\"], x-skein: {addresses: [10.77.9.1]}}\n",
			`compose.yaml:3:45: services.b.x-skein.addresses: 10.77.9.1 port 80/tcp is already published by service a: choose another port or address`},
		{"too many ports", one("ports: [\"1-65535:1-65535\"]"), `compose.yaml:4:13: services.web.ports.0: more than 256 ports (a range counts each): a service that needs that many should have its own address`},
		{"two errors in order", one("wibble: 1", "build: ."), `compose.yaml:4:5: services.web.wibble: unknown key; remove it, or begin it with x- if it is a note of yours
compose.yaml:5:5: services.web.build: not possible here: Skein runs images and builds none: build the image, load it with "skein image load", and name it with image:`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			services, _, err := parse(t, tt.text, nil)
			if err == nil {
				t.Fatalf("got %+v, want an error", services)
			}
			if got := err.Error(); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
			var fe *FileError
			if !errors.As(err, &fe) {
				t.Errorf("got %T, want a *FileError in it", err)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"version", "version: \"3\"\n" + one("user: a"), `compose.yaml:1:1: version: has no effect: obsolete, remove it`},
		{"depends_on", one("depends_on: [web]"), ``},
		{"secrets", one("secrets: [s]") + "secrets: {s: {file: ./s}}\n", `compose.yaml:4:5: services.web.secrets: has no effect: secrets are not supported yet: the container will not find them
compose.yaml:5:1: secrets: has no effect: secrets are not supported yet: the containers will not find them`},
		{"networks", one("networks: [front]") + "networks: {front: {}}\n", `compose.yaml:4:5: services.web.networks: has no effect: all services of a cluster share one network and find each other by name; there is no separation between networks
compose.yaml:5:1: networks: has no effect: all services of a cluster share one network and find each other by name; there is no separation between networks`},
		{"default network", one("networks: [default]"), ``},
		{"something else of the specification", one("oom_score_adj: 5"), `compose.yaml:4:5: services.web.oom_score_adj: not supported, has no effect`},
		{"mistyped extension", one("x-skien: {}"), `compose.yaml:4:5: services.web.x-skien: has no effect; did you mean x-skein?`},
		{"own notes", "x-note: 1\n" + one("x-mine: {a: b}"), ``},
		{"variable not set", one("user: \"a$NOBODY\""), `compose.yaml:4:11: services.web.user: the variable $NOBODY is not set and replaced by nothing; set it, or write ${NAME:-default}`},
		{"profiles", one("profiles: [debug]") + "  db:\n    image: demo/db\n", `compose.yaml:4:5: services.web.profiles: has no effect: services with profiles are not deployed: remove it to deploy the service`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.text
			if tt.name == "depends_on" {
				text = one("depends_on: [db]") + "  db:\n    image: demo/db\n"
				tt.want = `compose.yaml:4:5: services.web.depends_on: has no effect: services start in any order, on any node, and any of them may restart at any time: let this one wait and try again`
			}
			_, warnings, err := parse(t, text, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range warnings {
				got = append(got, w.String())
			}
			if got := strings.Join(got, "\n"); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// A small file must not become a large one.
func TestBombs(t *testing.T) {
	bomb := "x-0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 12; i++ {
		bomb += fmt.Sprintf("x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	merges := "x-0: &a0 {a: 1}\n"
	for i := 1; i < 30; i++ {
		merges += fmt.Sprintf("x-%d: &a%d {<<: [*a%d, *a%d]}\n", i, i, i-1, i-1)
	}
	for name, text := range map[string]string{
		"aliases":  bomb,
		"merges":   merges,
		"nesting":  "x-a: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"size":     strings.Repeat("# filler\n", 200_000),
		"template": one("user: \"" + strings.Repeat("${A:-", 20_000) + "\""),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := parse(t, text+"services:\n  web: {image: a}\n", nil); err == nil {
				t.Error("got no error, want one")
			}
		})
	}
	big := map[string]string{"BIG": strings.Repeat("x", 100_000)}
	if _, _, err := parse(t, one("labels:", "  a: \""+strings.Repeat("$BIG", 100)+"\""), big); err == nil {
		t.Error("got no error for variables of 10 MB, want one")
	}
	_, _, err := parse(t, one("labels:", "  a: \""+strings.Repeat("$BIG", 12)+"\""), big)
	if err == nil || !strings.Contains(err.Error(), "compose.yaml:2:3: services.web: the service is too large") {
		t.Errorf("got %v for a service of 1.2 MB, want an error about its size", err)
	}
}

func TestHashFollowsWhatMattersOnly(t *testing.T) {
	base, _, err := parse(t, one("deploy: {replicas: 2}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, text string
		same       bool
	}{
		{"replicas", one("deploy: {replicas: 5}"), true},
		{"note", one("x-note: hello"), true},
		{"user", one("user: a"), false},
		{"environment", one("environment: {A: b}"), false},
		{"limit", one("mem_limit: 64M"), false},
	} {
		got, _, err := parse(t, tt.text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if same := got[0].Hash == base[0].Hash; same != tt.same {
			t.Errorf("%s: got same hash %v, want %v", tt.name, same, tt.same)
		}
	}
	resolved := base[0]
	resolved.ImageDigest = "sha256:1"
	if Hash(&resolved) == base[0].Hash {
		t.Error("got the same hash with another image digest, want another")
	}
}

func TestStackName(t *testing.T) {
	if _, _, err := Parse(context.Background(), "c.yaml", []byte(one()), "My Shop", nil); err == nil || !strings.Contains(err.Error(), "stack name") {
		t.Errorf("got %v, want an error about the stack name", err)
	}
}

// Whatever the environment holds ends up in the container as it is.
func TestEnvironmentIsVerbatim(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.String().Draw(t, "value")
		services, _, err := Parse(context.Background(), "c.yaml", []byte(one("environment:", "  A: ${V}", "  B: \"x$V\"", "  C:")), "s",
			map[string]string{"V": value, "C": value})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"A": value, "B": "x" + value, "C": value}
		if diff := cmp.Diff(want, services[0].Env); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzParse(f *testing.F) {
	whole, err := os.ReadFile("testdata/whole.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(whole))
	f.Add(one("ports: [\"80:80\"]", "deploy: {replicas: 3}", "x-skein: {addresses: [10.0.0.1]}"))
	f.Add("x-a: &a {b: c}\nservices:\n  web:\n    <<: *a\n    image: ${X:-y}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file") || strings.Contains(text, "extends") {
			t.Skip("reads files of this machine")
		}
		services, warnings, err := parse(t, text, map[string]string{"X": "1"})
		for _, w := range warnings {
			if w.Line < 1 || w.Column < 1 {
				t.Errorf("got warning without a place: %s", w)
			}
		}
		if err != nil {
			var fe *FileError
			if !errors.As(err, &fe) || fe.Line < 1 || fe.Column < 1 {
				t.Errorf("got %v, want a place", err)
			}
			if strings.Contains(err.Error(), "library cannot cope") {
				t.Logf("compose-go panics: %v", err)
			}
			return
		}
		for i := range services {
			if s := &services[i]; s.Image == "" || s.Hash != Hash(s) {
				t.Errorf("got service %+v, want an image and its hash", s)
			}
		}
	})
}

func TestHealthURL(t *testing.T) {
	for _, tc := range []struct {
		url  string
		want []string
	}{
		{"http://:80/health", []string{"HTTP", "80", "/health"}},
		{"http://:8080", []string{"HTTP", "8080", "/"}},
		{"tcp://:5432", []string{"TCP", "5432"}},
		{"http://example.com:80/", nil}, {"http://:0/", nil}, {"http://:99999/", nil}, {"tcp://:1/x", nil},
		{"ftp://:21/", nil}, {"http:///health", nil}, {"http://:80/?a=b", nil}, {"", nil}, {"\x00", nil},
	} {
		got, err := healthURL(tc.url)
		if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) {
			t.Errorf("healthURL(%q): got %v, %v, want %v", tc.url, got, err, tc.want)
		}
	}
}

func TestProbe(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	}))
	defer srv.Close()
	at := netip.MustParseAddrPort(srv.Listener.Addr().String())
	port := strconv.Itoa(int(at.Port()))
	for _, tc := range []struct {
		test []string
		ok   bool
	}{
		{[]string{"HTTP", port, "/health"}, true}, {[]string{"HTTP", port, "/"}, false},
		{[]string{"TCP", port}, true}, {[]string{"TCP", "1"}, false},
	} {
		if err := probe(t.Context(), tc.test, at.Addr()); (err == nil) != tc.ok {
			t.Errorf("probe %v: got %v, want healthy %v", tc.test, err, tc.ok)
		}
	}
}
