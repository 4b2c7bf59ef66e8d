package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

// counterCompose is a service that counts on a volume, and says a number only when it is on the disk: dd does nothing but
// fsync, which fails if the journal could not be written. Sync would not tell.
const counterCompose = `services:
  counter:
    image: demo/reports:1
    user: "0:0"
    entrypoint: ["/usr/bin/busybox", "sh", "-c"]
    command:
      - |
        n=$$(busybox cat /data/n 2>/dev/null || echo 0)
        echo "begins at $$n"
        while true; do
          n=$$((n+1))
          echo $$n > /data/new && busybox mv /data/new /data/n && busybox dd if=/dev/null of=/data/n conv=notrunc,fsync 2>/dev/null && echo "kept $$n"
          busybox sleep 0.1
        done
    stop_grace_period: 2s
    volumes: ["data:/data"]
volumes:
  data: {driver: skein, name: numbers}
`

type writersReport struct {
	Verdict    string `json:"verdict"`
	TwoWriters int    `json:"two_writers"`
	Judged     int    `json:"judged"`
}

func (l *labTest) writers() writersReport {
	l.t.Helper()
	var r writersReport
	if out := l.run("lab", "writers", "-o", "json"); json.Unmarshal([]byte(out), &r) != nil {
		l.t.Fatalf("lab writers answered %q", out)
	}
	return r
}

var kept = regexp.MustCompile(`(begins at|kept) (\d+)`)

// counted gives where the running counter began and the last number that it kept.
func (l *labTest) counted() (first, last int) {
	l.t.Helper()
	out, err := l.try(30*time.Second, "logs", "counter")
	if err != nil {
		return -1, -1
	}
	first, last = -1, -1
	for _, m := range kept.FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[2])
		if err != nil {
			l.t.Fatal(err)
		}
		if m[1] == "kept" {
			last = n
		} else {
			first = n
		}
	}
	return first, last
}

// counts waits until the counter has kept a number above n.
func (l *labTest) counts(n int) int {
	l.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, last := l.counted(); last > n {
			return last
		}
	}
	l.t.Fatalf("the counter does not get past %d", n)
	return 0
}

// TestVolumeMovesWithItsService: a service on a SAN's disk whose node loses power, or freezes and comes back, or loses a
// path. Who writes is judged on the switches.
func TestVolumeMovesWithItsService(t *testing.T) {
	l := newLab(t)
	l.run("lab", "up", "--image", os.Getenv("SKEIN_IMAGE_DIR"), "--san=3")
	l.run("image", "load", filepath.Join(os.Getenv("SKEIN_DEMO_DIR"), "reports.tar"))
	var disks []struct {
		WWN  string `json:"wwn"`
		Size int64  `json:"size_bytes"`
	}
	var large, small []string
	for deadline := time.Now().Add(time.Minute); len(large) < 2 && time.Now().Before(deadline); {
		if err := json.Unmarshal([]byte(l.run("disk", "ls", "-o", "json")), &disks); err != nil {
			t.Fatal(err)
		}
		large, small = nil, nil
		for _, d := range disks {
			if d.Size >= 1<<30 {
				large = append(large, d.WWN)
			} else {
				small = append(small, d.WWN)
			}
		}
	}
	if len(large) != 2 || len(small) != 1 {
		t.Fatalf("got disks %v, want two large ones and a small one", disks)
	}
	l.run("cluster", "disk", "use", small[0])
	if out, err := l.try(time.Minute, "volume", "create", "numbers", "--disk", large[0]); err == nil || !strings.Contains(out, "enrol") {
		t.Errorf("a volume on a disk that is not enrolled: got %q, %v", out, err)
	}
	if out := l.run("disk", "enrol", large[0], "--alias", "a", "--yes"); !strings.Contains(out, "fast-fenced:") || strings.Contains(out, "not fast-fenced") {
		t.Fatalf("enrol: got %q", out)
	}
	l.run("volume", "create", "numbers", "--disk", "a")
	if out, err := l.try(time.Minute, "volume", "create", "more", "--disk", "a"); err == nil {
		t.Errorf("a second volume on a disk: got %q", out)
	}
	before := l.writers() // the self-test has written as two nodes
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(counterCompose), 0o600); err != nil {
		t.Fatal(err)
	}
	l.run("deploy", "-f", file, "san")
	l.counts(10)
	judge := func(what string) {
		t.Helper()
		if r := l.writers(); r.TwoWriters != before.TwoWriters || r.Judged <= before.Judged {
			t.Errorf("%s: the judge on the wire says %+v, before %+v", what, r, before)
		}
	}

	st := l.await("healthy", func(st api.Status) bool { return st.Healthy })
	victim := l.owner(st, "counter")
	_, had := l.counted()
	l.run("lab", "power", "off", victim)
	moved := func(from string) func(api.Status) bool {
		return func(st api.Status) bool { o := l.owner(st, "counter"); return o != "" && o != from }
	}
	l.await("another node has the volume", moved(victim))
	l.counts(had)
	if first, _ := l.counted(); first < had {
		t.Errorf("power cut of %s: it had kept %d, and the next began at %d", victim, had, first)
	}
	judge("power cut")
	l.run("lab", "power", "on", victim)
	st = l.await("healthy again", func(st api.Status) bool { return st.Healthy && len(st.Nodes) == 3 })

	// One path: the application must not notice more than a pause.
	owner := l.owner(st, "counter")
	first, last := l.counted()
	l.run("lab", "san", "portal", "A", "down")
	l.until("the path is out", func() bool { return strings.Contains(l.run("disk", "show", "a"), "failed:") })
	last = l.counts(last + 20)
	l.run("lab", "san", "portal", "A", "up")
	l.until("the path is back", func() bool { return !strings.Contains(l.run("disk", "show", "a"), ": ") })
	l.counts(last)
	if again, _ := l.counted(); again != first {
		t.Errorf("a portal was cut, and the service began anew at %d", again)
	}

	// Frozen, not switched off, thawed when another node has the disk.
	st = l.await("healthy before the freeze", func(st api.Status) bool { return st.Healthy })
	boot := nodeOf(st, owner).BootID
	_, had = l.counted()
	l.run("lab", "bmc", owner, "refuse")
	l.run("lab", "freeze", owner)
	l.await("another node has the volume", moved(owner))
	last = l.counts(had)
	if first, _ := l.counted(); first < had {
		t.Errorf("freeze of %s: it had kept %d, and the next began at %d", owner, had, first)
	}
	l.run("lab", "thaw", owner)
	l.run("lab", "bmc", owner, "ok")
	l.counts(last)
	st = l.await("the thawed node is a member again", func(st api.Status) bool {
		n := nodeOf(st, owner)
		return n != nil && n.State == cluster.NodeOnline && st.Healthy
	})
	t.Logf("the thawed node has restarted: %v", nodeOf(st, owner).BootID != boot)
	l.checkOneOwner(st)
	judge("thaw")

	// All power, the array's too. The image came from an archive: only the cluster disk can give it again.
	l.until("the image is on the cluster disk", func() bool { return strings.Contains(l.run("image", "ls"), "cluster disk") })
	_, had = l.counted()
	for _, machine := range []string{"n1", "n2", "n3", "san"} {
		l.run("lab", "power", "off", machine)
	}
	for _, machine := range []string{"san", "n1", "n2", "n3"} {
		l.run("lab", "power", "on", machine)
	}
	st = l.await("everything is back by itself", func(st api.Status) bool { return st.Healthy && len(st.Nodes) == 3 && l.owner(st, "counter") != "" })
	l.counts(had)
	if first, _ := l.counted(); first < had {
		t.Errorf("all power cut: it had kept %d, and the next began at %d", had, first)
	}
	l.checkOneOwner(st)
	judge("all power cut")
}

// until waits for a condition. The deadline says "never", not "slow".
func (l *labTest) until(what string, ok func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if ok() {
			return
		}
	}
	l.t.Fatalf("%s: never came", what)
}
