package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/storage/shared"
)

// sharedCompose writes numbered files on every node into one folder, and says a number only when it is on the disk.
const sharedCompose = `services:
  writer:
    image: demo/reports:1
    user: "0:0"
    entrypoint: ["/usr/bin/busybox", "sh", "-c"]
    command:
      - |
        me=$$(busybox hostname -i)
        n=$$(busybox cat /data/$$me 2>/dev/null || echo 0)
        while true; do
          n=$$((n+1))
          echo $$n > /data/$$me.new && busybox mv /data/$$me.new /data/$$me && busybox sync && echo "kept $$n"
          busybox sleep 0.1
        done
    stop_grace_period: 1s
    deploy: {mode: global}
    volumes: ["files:/data"]
volumes:
  files: {driver: skein-shared}
`

var keptLine = regexp.MustCompile(`(?m)kept (\d+)\s*$`)

// writer is an instance of the writing service.
type writer struct {
	ID   string `json:"id"`
	Node string `json:"node"`
}

func (l *labTest) writersOf() map[string]writer {
	l.t.Helper()
	var list []writer
	if err := json.Unmarshal([]byte(l.run("ps", "-o", "json")), &list); err != nil {
		l.t.Fatal(err)
	}
	out := map[string]writer{}
	for _, w := range list {
		out[w.Node] = w
	}
	return out
}

// keptBy is the last number that an instance said it has kept, -1 if none.
func (l *labTest) keptBy(id string) int {
	l.t.Helper()
	out, err := l.try(30*time.Second, "logs", id, "--tail", "5")
	if err != nil {
		return -1
	}
	all := keptLine.FindAllStringSubmatch(out, -1)
	if len(all) == 0 {
		return -1
	}
	n, err := strconv.Atoi(all[len(all)-1][1])
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// replayed counts how often agents said that they have replayed a journal after a loss.
func (l *labTest) replayed(nodes ...string) (n int) {
	l.t.Helper()
	for _, node := range nodes {
		n += strings.Count(l.run("lab", "console", node), "event=replayed")
	}
	return n
}

// TestSharedFileSystem: three nodes write to one file system while one loses its power, SKEIN_GFS2_KILLS times (2 if it is
// not set). What was said to be kept is there for the others, the journal is replayed each time, and at the
// end the file system is clean. That locks hold across nodes is tested in tests/guest.
func TestSharedFileSystem(t *testing.T) {
	kills := 2
	if text := os.Getenv("SKEIN_GFS2_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("SKEIN_GFS2_KILLS=%s: must be a number", text)
		}
		kills = n
	}
	l := newLab(t)
	l.run("lab", "up", "--image", os.Getenv("SKEIN_IMAGE_DIR"), "--san=2")
	l.run("image", "load", filepath.Join(os.Getenv("SKEIN_DEMO_DIR"), "reports.tar"))
	var wwn string
	l.until("the disk is seen", func() bool {
		var disks []struct {
			WWN  string `json:"wwn"`
			Size int64  `json:"size_bytes"`
		}
		if err := json.Unmarshal([]byte(l.run("disk", "ls", "-o", "json")), &disks); err != nil {
			t.Fatal(err)
		}
		for _, d := range disks {
			if d.Size >= 1<<30 {
				wwn = d.WWN
			}
		}
		return wwn != ""
	})
	if out, err := l.try(time.Minute, "shared", "create", "files", "--disk", wwn); err == nil || !strings.Contains(out, "enrol") {
		t.Errorf("on a disk that is not enrolled: got %q, %v", out, err)
	}
	l.run("disk", "enrol", wwn, "--alias", "big", "--yes")
	l.run("shared", "create", "files", "--disk", "big", "--journals", "4")
	if out, err := l.try(time.Minute, "volume", "create", "v", "--disk", "big"); err == nil {
		t.Errorf("a volume on its disk: got %q", out)
	}
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(sharedCompose), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run("deploy", "-f", file, "fs")
	nodes := []string{"n1", "n2", "n3"}
	all := func() (w map[string]writer) {
		l.until("all write", func() bool {
			w = l.writersOf()
			return len(w) == 3 && !slices.ContainsFunc(nodes, func(n string) bool { return l.keptBy(w[n].ID) < 3 })
		})
		return w
	}
	var stalls []time.Duration
	for kill := range kills {
		w := all()
		victim := nodes[kill%3]
		rest := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == victim })
		before := l.replayed(rest...)
		path, said := "/data/"+address(t, l, w[victim].ID), l.keptBy(w[victim].ID)
		l.run("lab", "power", "off", victim)
		off := time.Now()
		had := l.keptNumbers(w, rest)
		l.until("the others go on writing", func() bool {
			now := l.keptNumbers(w, rest)
			return now[rest[0]] > had[rest[0]]+5 && now[rest[1]] > had[rest[1]]+5
		})
		stalls = append(stalls, time.Since(off))
		l.until("the journal is replayed", func() bool { return l.replayed(rest...) > before })
		// Nobody's file is behind what it said before, whoever reads it; the victim's is what its journal has.
		for _, n := range rest {
			text := l.run("exec", w[n].ID, "--", "/usr/bin/busybox", "cat", path)
			if got, err := strconv.Atoi(strings.TrimSpace(text)); err != nil || got < said {
				t.Errorf("kill %d: %s reads %q of %s, which had kept %d when its power was cut", kill, n, text, victim, said)
			}
			for _, m := range rest {
				text := l.run("exec", w[n].ID, "--", "/usr/bin/busybox", "sh", "-c", "busybox cat /data/"+address(t, l, w[m].ID))
				if got, err := strconv.Atoi(strings.TrimSpace(text)); err != nil || got < had[m] {
					t.Errorf("kill %d: %s reads %q of %s, which had kept %d", kill, n, text, m, had[m])
				}
			}
		}
		l.run("lab", "power", "on", victim)
		l.await("the node is back", func(st api.Status) bool { return st.Healthy && len(st.Nodes) == 3 })
	}
	t.Logf("from the power cut until both others had written six more: %v", stalls)

	l.run("rm", "fs")
	l.until("it is taken offline", func() bool {
		_, err := l.try(time.Minute, "shared", "offline", "files")
		return err == nil
	})
	var check api.SharedCheck
	l.until("it is checked", func() bool {
		out, err := l.try(5*time.Minute, "shared", "check", "files", "-o", "json")
		return err == nil && json.Unmarshal([]byte(out), &check) == nil
	})
	if check.Finding != shared.Clean && check.Finding != shared.Miscounted {
		t.Errorf("after %d losses fsck.gfs2 says %s:\n%s", kills, check.Finding, check.Output)
	}
	t.Logf("fsck.gfs2 after %d losses: %s", kills, check.Finding)
	l.until("the file system is removed", func() bool {
		out, err := l.try(time.Minute, "shared", "rm", "files", "--yes")
		return err == nil || strings.Contains(out, "there is no shared file system")
	})
	l.until("it is forgotten", func() bool { return !strings.Contains(l.run("shared", "ls"), "files") })
	// Checked by the one who makes the next: what is there is seen, and nothing is done to it.
	if out, err := l.try(time.Minute, "shared", "create", "again", "--disk", "big"); err == nil || !strings.Contains(out, "gfs2") {
		t.Errorf("over the old one: got %q, %v, want it named and left alone", out, err)
	}
}

func (l *labTest) keptNumbers(w map[string]writer, nodes []string) map[string]int {
	out := map[string]int{}
	for _, n := range nodes {
		out[n] = l.keptBy(w[n].ID)
	}
	return out
}

func address(t *testing.T, l *labTest, id string) string {
	t.Helper()
	return strings.TrimSpace(l.run("exec", id, "--", "/usr/bin/busybox", "hostname", "-i"))
}
