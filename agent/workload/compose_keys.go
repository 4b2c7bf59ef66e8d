package workload

import (
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/schema"
)

// What Skein does with each key of the Compose specification. Patterns as in compose-go: * stands for a
// name, [] for an item of a list. A key that is in none of these tables is warned of: so one that the
// specification gains is never silently lost.
var (
	// acted on, looked into further
	supportedKeys = set(`
		services services.*
		services.*.image services.*.entrypoint services.*.command services.*.user services.*.working_dir
		services.*.hostname services.*.read_only services.*.tmpfs services.*.stop_signal
		services.*.stop_grace_period services.*.restart services.*.scale services.*.extends services.*.extends.service
		services.*.cpus services.*.mem_limit services.*.mem_reservation services.*.pids_limit
		services.*.healthcheck services.*.healthcheck.test services.*.healthcheck.interval
		services.*.healthcheck.timeout services.*.healthcheck.retries services.*.healthcheck.start_period
		services.*.healthcheck.start_interval services.*.healthcheck.disable
		services.*.deploy services.*.deploy.mode services.*.deploy.replicas services.*.deploy.resources
		services.*.deploy.resources.limits services.*.deploy.resources.limits.cpus
		services.*.deploy.resources.limits.memory services.*.deploy.resources.limits.pids
		services.*.deploy.resources.reservations services.*.deploy.resources.reservations.cpus
		services.*.deploy.resources.reservations.memory
		services.*.deploy.restart_policy services.*.deploy.restart_policy.condition
		services.*.deploy.restart_policy.delay services.*.deploy.restart_policy.max_attempts
		services.*.deploy.restart_policy.window
		services.*.deploy.update_config services.*.deploy.update_config.parallelism services.*.deploy.update_config.delay
		services.*.deploy.update_config.failure_action services.*.deploy.update_config.monitor
		services.*.deploy.update_config.max_failure_ratio services.*.deploy.update_config.order
		services.*.deploy.rollback_config services.*.deploy.rollback_config.parallelism services.*.deploy.rollback_config.delay
		services.*.deploy.rollback_config.failure_action services.*.deploy.rollback_config.monitor
		services.*.deploy.rollback_config.max_failure_ratio services.*.deploy.rollback_config.order
		services.*.deploy.placement services.*.deploy.placement.constraints
		services.*.ports services.*.ports.[].target services.*.ports.[].published services.*.ports.[].protocol
		services.*.configs services.*.configs.[].source services.*.configs.[].target services.*.configs.[].mode
		services.*.volumes services.*.volumes.[].type services.*.volumes.[].target services.*.volumes.[].tmpfs
		services.*.volumes.[].tmpfs.size services.*.volumes.[].tmpfs.mode
		configs configs.* configs.*.content configs.*.file configs.*.environment configs.*.name`)

	// acted on, or harmless to leave: whatever is below belongs to the operator
	freeKeys = set(`
		services.*.environment services.*.env_file services.*.labels services.*.deploy.labels
		services.*.cap_add services.*.cap_drop services.*.expose services.*.annotations
		services.*.ports.[].name services.*.ports.[].app_protocol services.*.ports.[].mode
		services.*.volumes.[].source services.*.volumes.[].read_only services.*.volumes.[].bind
		services.*.volumes.[].volume services.*.volumes.[].consistency services.*.volumes.[].image
		services.*.attach services.*.pull_policy volumes`)  // volumes: see checkVolumes

	refusedKeys = map[string]string{
		"include":                       "Skein deploys one file: write what \"docker compose config\" prints and deploy that",
		"jobs":                          "write a job as a service with deploy.mode: replicated-job",
		"services.*.build":              "Skein runs images and builds none: build the image, load it with \"skein image load\", and name it with image:",
		"services.*.extends.file":       "only services of the same file can be extended: copy it here",
		"services.*.label_file":         "write the labels into labels:",
		"services.*.privileged":         "no container gets the whole machine: name what it needs in cap_add",
		"services.*.devices":            "machines are interchangeable, so services get no devices: remove it",
		"services.*.gpus":               "machines are interchangeable, so services get no devices: remove it",
		"services.*.network_mode":       "each instance has its own network and address: remove it and publish ports",
		"services.*.pid":                "containers do not share process ids: remove it",
		"services.*.ipc":                "containers do not share memory: remove it",
		"services.*.userns_mode":        "remove it",
		"services.*.volumes_from":       "a volume has one service: name it in volumes: of that one",
		"services.*.provider":           "services are containers: give an image",
		"services.*.use_api_socket":     "there is no Docker on a Skein node: remove it",
		"services.*.models":             "remove it: Skein runs containers only",
		"services.*.ports.[].host_ip":   "nodes are interchangeable: give the service an address with x-skein: {addresses: [...]}",
		"configs.*.external":            "write the content here, or name a file: with file:",
		"configs.*.template_driver":     "write the content as it should be; ${NAME} is replaced in content:",
		"services.*.configs.[].uid":     "configs belong to root; set mode: if others must read it",
		"services.*.configs.[].gid":     "configs belong to root; set mode: if others must read it",
		"services.*.volumes.[].subpath": "a service gets the whole volume",
	}

	// why a key has no effect, where more can be said than that
	ignoredKeys = map[string]string{
		"version":                   "obsolete, remove it",
		"name":                      "the stack's name is the one given to deploy",
		"networks":                  "all services of a cluster share one network and find each other by name; there is no separation between networks",
		"services.*.networks":       "all services of a cluster share one network and find each other by name; there is no separation between networks",
		"secrets":                   "secrets are not supported yet: the containers will not find them",
		"services.*.secrets":        "secrets are not supported yet: the container will not find them",
		"services.*.depends_on":     "services start in any order, on any node, and any of them may restart at any time: let this one wait and try again",
		"services.*.links":          "services find each other by name",
		"services.*.container_name": "instances are named stack.service.slot",
		"services.*.logging":        "logs are kept on the node, see \"skein logs\"",
		"services.*.init":           "the image's process is process 1 of the container; build a reaper into the image if it needs one",
		"services.*.platform":       "the image must be made for the nodes' processor",
		"services.*.develop":        "it is for development",
		"services.*.profiles":       "services with profiles are not deployed: remove it to deploy the service",
		"services.*.security_opt":   "system calls are always filtered",
	}
)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// specification is the tree of keys that Compose knows: pattern -> keys below it.
var specification = sync.OnceValue(func() map[string][]string {
	children := map[string][]string{}
	for _, p := range schema.AttributePaths() {
		parts := p.Parts()
		for i := range parts {
			parent := strings.Join(parts[:i], ".")
			if !slices.Contains(children[parent], parts[i]) {
				children[parent] = append(children[parent], parts[i])
			}
		}
	}
	return children
})

// checkKeys reports every key that is unknown, refused or without effect.
func (f *file) checkKeys(root map[string]any) {
	f.walkKeys(root, "", "")
}

func (f *file) walkKeys(v any, path, pattern string) {
	switch v := v.(type) {
	case map[string]any:
		known := specification()[pattern]
		if len(known) == 0 {
			return
		}
		for key, sub := range v {
			f.checkKey(key, sub, path, pattern, known)
		}
	case []any:
		for i, sub := range v {
			f.walkKeys(sub, join(path, itoa(i)), join(pattern, "[]"))
		}
	}
}

func (f *file) checkKey(key string, sub any, path, pattern string, known []string) {
	p, pat := join(path, key), ""
	switch {
	case slices.Contains(known, key):
		pat = join(pattern, key)
	case slices.Contains(known, "*") && (pattern == "services" || !strings.HasPrefix(key, "x-")):
		pat = join(pattern, "*")
	case key == "x-skein" && pattern == "services.*":
		return // read by readExtension
	case key == "x-skein":
		f.fail(p, "x-skein belongs into a service, beside its image:")
		return
	case strings.HasPrefix(key, "x-"):
		if distance(key, "x-skein") <= 2 {
			f.warn(p, "has no effect; did you mean x-skein?")
		}
		return
	default:
		text := "unknown key"
		if near := nearest(key, known); near != "" {
			text += "; did you mean " + near + "?"
		} else if path == "" {
			text += "; services are written below services:"
		} else {
			text += "; remove it, or begin it with x- if it is a note of yours"
		}
		f.fail(p, "%s", text)
		return
	}
	if text, ok := refusedKeys[pat]; ok {
		f.fail(p, "not possible here: %s", text)
		return
	}
	switch {
	case freeKeys[pat]:
	case supportedKeys[pat]:
		f.walkKeys(sub, p, pat)
	case ignoredKeys[pat] != "":
		if !isDefaultNetworks(pat, sub) {
			f.warn(p, "has no effect: %s", ignoredKeys[pat])
		}
	default:
		f.warn(p, "not supported, has no effect")
	}
}

// isDefaultNetworks tells that a networks key names only the default network, which is what there is.
func isDefaultNetworks(pattern string, v any) bool {
	if pattern != "networks" && pattern != "services.*.networks" {
		return false
	}
	switch v := v.(type) {
	case nil:
		return true
	case []any:
		return len(v) == 1 && v[0] == "default"
	case map[string]any:
		_, ok := v["default"]
		return ok && len(v) == 1
	}
	return false
}

// nearest is the word that was probably meant: at most two letters differ, one in a short word.
func nearest(word string, words []string) string {
	best, least := "", 3
	if len(word) < 5 {
		least = 2
	}
	sorted := slices.Clone(words)
	slices.Sort(sorted)
	for _, w := range sorted {
		if w == "*" || w == "[]" {
			continue
		}
		if d := distance(word, w); d < least {
			best, least = w, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour to make b of
// a (optimal string alignment). Words far apart in length or very long count as far.
func distance(a, b string) int {
	const far = 99
	if len(a) > 64 || len(b) > 64 || max(len(a), len(b))-min(len(a), len(b)) > 3 {
		return far
	}
	var d [65][65]int
	for i := range len(a) + 1 {
		for j := range len(b) + 1 {
			switch {
			case i == 0:
				d[i][j] = j
			case j == 0:
				d[i][j] = i
			default:
				cost := 1
				if a[i-1] == b[j-1] {
					cost = 0
				}
				d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+cost)
				if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
					d[i][j] = min(d[i][j], d[i-2][j-2]+1)
				}
			}
		}
	}
	return d[len(a)][len(b)]
}
