package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/netboot"
)

// TestMembersBoot has the host boot the first three machines from the network, and these a fourth that the host gives an
// address only. The member that gives it the archive loses its power while it does; the machine joins all the same.
func TestMembersBoot(t *testing.T) {
	l := newLab(t)
	image := os.Getenv("SKEIN_IMAGE_DIR")
	l.run("lab", "up", "--nodes", "3", "--boot", "bios", "--members-boot", "--image", image)
	l.await("three members", func(st api.Status) bool { return online(st) == 3 })
	t.Log(l.run("netboot", "enable", "--image", image, "--cmdline", "console=ttyS0 quiet cryptomgr.notests panic=-1 no_timer_check"))

	added := make(chan error, 1)
	begin := time.Now()
	go func() {
		_, err := l.try(8*time.Minute, "lab", "add")
		added <- err
	}()
	giver := ""
	l.within(5*time.Minute, "a member that gives the archive", func() bool {
		giver = l.givesArchive()
		return giver != ""
	})
	l.run("lab", "power", "off", giver)
	t.Logf("%s gave the archive and lost its power after %v", giver, time.Since(begin).Round(time.Second))
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	l.await("the fourth to join", func(st api.Status) bool {
		for _, n := range st.Nodes {
			if n.Name == "n4" && n.State == cluster.NodeOnline {
				return true
			}
		}
		return false
	})
	t.Logf("joined after %v", time.Since(begin).Round(time.Second))
	for name, of := range l.netboot().Nodes {
		for _, m := range of.Machines {
			if name != giver && m.Stage == netboot.StageBooted {
				t.Logf("%s gave it the rest", name)
				return
			}
		}
	}
	t.Errorf("no living member has given the whole archive: got %+v", l.netboot())
}

func online(st api.Status) (n int) {
	for _, o := range st.Nodes {
		if o.State == cluster.NodeOnline {
			n++
		}
	}
	return n
}

// netbootStatus is what `skein netboot status -o json` prints.
type netbootStatus struct {
	Nodes map[string]api.NodeNetboot `json:"nodes"`
}

func (l *labTest) netboot() (st netbootStatus) {
	out, err := l.try(30*time.Second, "netboot", "status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &st)
	}
	if err != nil {
		l.t.Log(fmt.Errorf("netboot status: %w", err)) // asked again by whoever waits
	}
	return st
}

// givesArchive is the node that is giving a machine the archive, empty if none does.
func (l *labTest) givesArchive() string {
	for name, of := range l.netboot().Nodes {
		for _, m := range of.Machines {
			if m.Stage == netboot.StageArchive {
				return name
			}
		}
	}
	return ""
}

// within polls until ok, and fails the test if that never comes.
func (l *labTest) within(limit time.Duration, what string, ok func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(100 * time.Millisecond) { // between two questions
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: never came in %v", what, limit)
		}
	}
}
