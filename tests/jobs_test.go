package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/job"
)

// TestJobSurvivesALostNode divides tasks over three machines and cuts the power of one half-way: every index is recorded
// exactly once, and printed in order.
func TestJobSurvivesALostNode(t *testing.T) {
	l := newLab(t)
	l.run("lab", "up", "--image", os.Getenv("SKEIN_IMAGE_DIR"))
	l.await("three nodes", func(st api.Status) bool { return st.Healthy && len(st.Nodes) == 3 })
	l.run("image", "load", filepath.Join(os.Getenv("SKEIN_DEMO_DIR"), "web.tar"))

	// A task that fails, one that is not there, one that is killed: told, counted, run again.
	out, err := l.try(5*time.Minute, "array", "1-6", "--cpus", "0.5", "--", "sh", "-c", "test {} != 4 || exit 3")
	if err == nil || !strings.Contains(out, "exit code 3") || !strings.Contains(out, "skein job retry") {
		t.Errorf("a job with a task that failed: got %v, %q", err, out)
	}
	if out, err := l.try(5*time.Minute, "run", "--image", "demo/web:1", "--", "sh", "-c", "echo said; exit 7"); err == nil || !strings.Contains(out, "said") || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("run of a command with exit code 7: got %v, %q", err, out)
	}

	const tasks = 300
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, l.bin, "array", "1-"+strconv.Itoa(tasks), "--name", "half", "--cpus", "0.1", "--", "sh", "-c", "sleep 1; echo index {}")
	cmd.Env = l.env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	half := func() (p job.Progress) {
		out, err := l.try(30*time.Second, "job", "ls", "-o", "json")
		var list []job.Progress
		if err == nil {
			err = json.Unmarshal([]byte(out), &list)
		}
		for _, j := range list {
			if err == nil && j.Spec.Name == "half" {
				return j
			}
		}
		return p
	}
	for deadline := time.Now().Add(5 * time.Minute); half().OK < tasks/3; {
		if time.Now().After(deadline) {
			t.Fatalf("a third of the tasks never ended: %+v", half())
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
	st, err := l.status()
	if err != nil {
		t.Fatal(err)
	}
	victim := st.Nodes[0].Name
	if victim == st.Coordinator {
		victim = st.Nodes[1].Name
	}
	at := half()
	l.run("lab", "power", "off", victim)
	t.Logf("cut %s with %d of %d tasks done and %d given out", victim, at.OK, tasks, at.Held)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	p := half()
	t.Logf("%d done, %d failed after %s: %s", p.OK, p.Bad, time.Since(began).Round(100*time.Millisecond), strings.TrimSpace(stderr.String()[max(0, stderr.Len()-100):]))
	if p.State != job.Done || p.OK != tasks || p.Bad != 0 {
		t.Errorf("got %s with %d done, %d failed; want done with %d and 0", p.State, p.OK, p.Bad, tasks)
	}
	// What the lost node kept of output is lost, and said to be. Everything is told of exactly once.
	seen, last, lost := map[int]int{}, 0, 0
	for line := range strings.Lines(stdout.String()) {
		n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "index ")))
		if err != nil || n <= last {
			t.Fatalf("got the line %q after index %d", line, last)
		}
		seen[n]++
		last = n
	}
	for _, m := range regexp.MustCompile(`task (\d+): its output`).FindAllStringSubmatch(stderr.String(), -1) {
		n, _ := strconv.Atoi(m[1])
		seen[n]++
		lost++
	}
	for i := 1; i <= tasks; i++ {
		if seen[i] != 1 {
			t.Errorf("index %d was told of %d times, want once", i, seen[i])
		}
	}
	t.Logf("%d lines of output came, that of %d tasks was lost with %s", len(seen)-lost, lost, victim)
	l.await(victim+" to be known as lost", func(st api.Status) bool {
		n := nodeOf(st, victim)
		return n != nil && n.State == cluster.NodeLost
	})
}
