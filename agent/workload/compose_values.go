package workload

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/xhit/go-str2duration/v2"
)

// validName is what stacks and services may be called: a DNS label, as it is found by name.
var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func itoa(n int) string { return strconv.Itoa(n) }

// checkValues looks at values that compose-go would refuse without saying where, or would accept though
// they cannot work here. It runs before it, on the tree as written.
func (f *file) checkValues(root map[string]any) {
	services, ok := root["services"].(map[string]any)
	if !ok || len(services) == 0 {
		if _, there := root["services"]; there {
			f.fail("services", "must be a mapping of service names, with at least one")
		} else if !f.failed() {
			f.errorAt(position{1, 1}, "the file has no services: write services: and below it each service by name")
		}
		return
	}
	for name, v := range services {
		p := join("services", name)
		if !validName.MatchString(name) {
			f.fail(p, "a service's name must be lower-case letters, digits and dashes: others find it by this name in the DNS")
		}
		s, ok := v.(map[string]any)
		if !ok {
			f.fail(p, "must be a mapping of keys like image:, indented below the name")
			continue
		}
		f.checkService(p, s)
	}
}

func (f *file) checkService(p string, s map[string]any) {
	_, extends := s["extends"]
	switch image, _ := plain(s["image"]); {
	case s["image"] == nil && !extends:
		f.fail(p, "the service has no image: add image: NAME:TAG (\"skein image ls\" shows those that are loaded)")
	case s["image"] != nil:
		if _, err := reference.ParseNormalizedNamed(image); err != nil {
			f.fail(p+".image", "%q is no image name: %v; write NAME:TAG or HOST/NAME:TAG, in lower case", image, err)
		}
	}
	ports, _ := s["ports"].([]any)
	count := 0
	for i, v := range ports {
		if count += portCount(v); count > maxPorts {
			f.fail(p+".ports."+itoa(i), "more than %d ports (a range counts each): a service that needs that many should have its own address", maxPorts)
			delete(s, "ports")
			break
		}
		if _, isMap := v.(map[string]any); isMap {
			continue
		}
		text, _ := plain(v)
		if _, err := types.ParsePortConfig(text); err != nil {
			f.fail(p+".ports."+itoa(i), "%q is no port: %v; write PUBLISHED:TARGET like \"8080:80\" or \"53:53/udp\"", text, err)
		}
	}
	f.checkDuration(s, p, "stop_grace_period")
	if hc, ok := s["healthcheck"].(map[string]any); ok {
		for _, k := range []string{"interval", "timeout", "start_period", "start_interval"} {
			f.checkDuration(hc, p+".healthcheck", k)
		}
	}
	if d, ok := s["deploy"].(map[string]any); ok {
		if rp, ok := d["restart_policy"].(map[string]any); ok {
			f.checkDuration(rp, p+".deploy.restart_policy", "delay")
			f.checkDuration(rp, p+".deploy.restart_policy", "window")
		}
		if res, ok := d["resources"].(map[string]any); ok {
			for _, k := range []string{"limits", "reservations"} {
				if r, ok := res[k].(map[string]any); ok {
					f.checkSize(r, p+".deploy.resources."+k, "memory")
				}
			}
		}
	}
	f.checkSize(s, p, "mem_limit")
	f.checkSize(s, p, "mem_reservation")
	f.checkEnvFiles(s["env_file"], p+".env_file")
}

// maxPorts of one service, ranges counted out.
const maxPorts = 256

var portRange = regexp.MustCompile(`(\d+)-(\d+)`)

// portCount is how many ports an entry stands for, found without making them: 1-65535 is short to write.
func portCount(v any) int {
	if m, ok := v.(map[string]any); ok {
		v = m["published"]
	}
	text, _ := plain(v)
	n := 1
	for _, m := range portRange.FindAllStringSubmatch(text, -1) {
		from, _ := strconv.Atoi(m[1]) // what is no number is refused later
		to, _ := strconv.Atoi(m[2])
		n = max(n, to-from+1)
	}
	return n
}

// plain is a scalar as text, with compose-go's escaping of $ undone.
func plain(v any) (string, bool) {
	switch v := v.(type) {
	case nil, map[string]any, []any:
		return "", false
	case string:
		return strings.ReplaceAll(v, "$$", "$"), true
	default:
		return fmt.Sprint(v), true
	}
}

func (f *file) checkDuration(m map[string]any, p, key string) {
	v, there := m[key]
	if !there || v == nil {
		return
	}
	text, ok := plain(v)
	d, err := str2duration.ParseDuration(text)
	if !ok || err != nil || d < 0 {
		f.fail(join(p, key), "%q is no duration: write it like 10s, 1m30s or 500ms", text)
	}
}

func (f *file) checkSize(m map[string]any, p, key string) {
	v, there := m[key]
	if !there || v == nil {
		return
	}
	text, ok := plain(v)
	var b types.UnitBytes
	if err := b.DecodeMapstructure(text); !ok || err != nil || b < 0 {
		f.fail(join(p, key), "%q is no size: write it like 64M or 1G", text)
	}
}

// checkEnvFiles makes sure that compose-go can read them: regular files of a sane size.
func (f *file) checkEnvFiles(v any, p string) {
	switch v := v.(type) {
	case string:
		f.checkEnvFile(v, p, true)
	case []any:
		for i, e := range v {
			f.checkEnvFiles(e, p+"."+itoa(i))
		}
	case map[string]any:
		if name, ok := v["path"].(string); ok {
			f.checkEnvFile(name, p, v["required"] != false)
		}
	}
}

func (f *file) checkEnvFile(name, p string, required bool) {
	name, _ = plain(name)
	info, err := os.Stat(f.beside(name))
	switch {
	case err != nil && os.IsNotExist(err) && !required:
	case err != nil:
		f.fail(p, "cannot read it: %v", err)
	case !info.Mode().IsRegular() || info.Size() > maxEnvFile:
		f.fail(p, "%s must be a regular file of at most %d bytes", name, maxEnvFile)
	}
}

// beside is the path of a file named in the Compose file: relative names are beside it.
func (f *file) beside(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(f.dir, name)
}

// checkTarget tells whether something can be mounted there in a container.
func (f *file) checkTarget(p, target string) bool {
	if !path.IsAbs(target) || path.Clean(target) == "/" || strings.ContainsAny(target, "\x00:") {
		f.fail(p, "%q must be an absolute path in the container, like /run/data", target)
		return false
	}
	return true
}
