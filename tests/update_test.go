package tests

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

// update replaces both instances of a service while a client asks for it all the time, once by a version that runs and
// once by one that does not. The client must not notice either.
func (l *labTest) update() {
	l.t.Helper()
	deploy := func(version, command string) (string, error) {
		file := filepath.Join(l.dir, "site.yaml")
		compose := `services:
  site:
    image: demo/web:1
    read_only: true
    tmpfs: [/tmp]
    environment: {VERSION: "` + version + `"}
    ports: ["8090:80"]
    ` + command + `
    x-skein: {health: "http://:80/health"}
    healthcheck: {interval: 1s, timeout: 5s, retries: 3, start_period: 10s}
    deploy:
      replicas: 2
      update_config: {order: start-first, failure_action: rollback, monitor: 2s}
`
		if err := os.WriteFile(file, []byte(compose), 0o600); err != nil {
			l.t.Fatal(err)
		}
		return l.try(4*time.Minute, "deploy", "-f", file, "rolling")
	}
	if out, err := deploy("1", ""); err != nil {
		l.t.Fatal(out, err)
	}
	probed := l.probe("http://n1:8090/", 45*time.Second)
	begin := time.Now()
	if out, err := deploy("2", ""); err != nil {
		l.t.Fatal(out, err)
	}
	l.t.Logf("two instances were replaced in %v", time.Since(begin).Round(100*time.Millisecond))
	begin = time.Now()
	out, err := deploy("3", `entrypoint: ["/nothing/here"]`)
	if err == nil || !strings.Contains(out, "rolled back") {
		l.t.Errorf("a version that does not run: got %q, %v", out, err)
	}
	l.t.Logf("a version that does not run was rolled back after %v: %s", time.Since(begin).Round(100*time.Millisecond), strings.TrimSpace(out))
	if r := probed(); r.Failed > 0 {
		l.t.Errorf("while a service was updated %d of %d requests failed, longest gap %.0f ms: %s", r.Failed, r.Requests, r.LongestGapMS, r.Timeline)
	} else {
		l.t.Logf("%d requests meanwhile, none failed, longest gap %.0f ms", r.Requests, r.LongestGapMS)
	}
	l.await("two instances, healthy", func(st api.Status) bool {
		for _, s := range st.Services {
			if s.Stack == "rolling" {
				return st.Healthy && len(s.Instances) == 2 && s.Update != nil && s.Update.State == cluster.UpdateRolledBack
			}
		}
		return false
	})
	l.run("scale", "rolling/site=3")
	l.run("rm", "rolling")
	l.await("healthy without it", func(st api.Status) bool { return st.Healthy && len(st.Services) == 3 })
}
