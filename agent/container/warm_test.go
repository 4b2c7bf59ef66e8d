package container

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// TestRuntimeWarm: a container that was made ahead runs nothing until an instance takes it, and is then one
// like any other.
func TestRuntimeWarm(t *testing.T) {
	w := newWorld(t)
	web, other := w.instance(""), w.instance("")
	web.Spec.Hash = "1"
	other.Service, other.Spec.Name = "other", "other"
	begin := time.Now()
	if err := w.runtime.Warm(t.Context(), []cluster.Instance{web, other}); err != nil {
		t.Fatal(err)
	}
	t.Logf("Warm of two took %v", time.Since(begin).Round(time.Millisecond))
	if got, want := w.runtime.Warmed(), []string{"demo/box.1", "demo/other.1"}; !slices.Equal(got, want) {
		t.Errorf("got warm %v, want %v", got, want)
	}
	if got := w.runtime.List(); len(got) != 0 {
		t.Errorf("got containers %v, want none: nothing runs yet", got)
	}
	warm := w.runtime.warm[keyOf(&web)]
	if _, err := http.Get("http://" + warm.Address.String()); err == nil {
		t.Error("a container that was only made ahead answers")
	}

	web.ID = "demo.box.1.a"
	begin = time.Now()
	run := w.start(web)
	t.Logf("Start took %v", time.Since(begin).Round(time.Millisecond))
	if run.PID != warm.madeAhead || run.Address != warm.Address || run.Instance.ID != web.ID {
		t.Errorf("got %+v, want the container made ahead, process %d at %s", run, warm.madeAhead, warm.Address)
	}
	w.awaitLog(web.ID, "serving")
	resp, err := http.Get("http://" + run.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if code, err := w.runtime.Exec(t.Context(), web.ID, []string{"/bin/box", "exit", "7"}, nil, nil, nil); err != nil || code != 7 {
		t.Errorf("exec: got %d, %v, want 7", code, err)
	}
	if e, err := w.runtime.Stop(t.Context(), web.ID, "", time.Minute); err != nil || !e.OK() {
		t.Errorf("stop: got %v, %v, want exit code 0", e, err)
	}
	again := w.start(web)
	if again.PID == run.PID || again.Address != run.Address {
		t.Errorf("started again: got %+v, want another process at the same address", again)
	}
	w.awaitLog(web.ID, "serving")

	// What is not wanted any more goes, also what another specification was made for.
	changed := other
	changed.Spec.Hash = "2"
	if err := w.runtime.Warm(t.Context(), []cluster.Instance{changed}); err != nil {
		t.Fatal(err)
	}
	if _, ok := w.runtime.warm[keyOf(&other)]; ok || len(w.runtime.warm) != 1 {
		t.Errorf("got warm %v, want only that of the changed specification", w.runtime.Warmed())
	}

	// A later agent goes on with what runs, and removes what does not.
	name := w.runtime.warm[keyOf(&changed)].Name
	w.runtime.Close()
	w.open()
	got, err := w.runtime.Adopt(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Instance.ID != web.ID || got[0].PID != again.PID {
		t.Errorf("got %+v, want %s alone", got, web.ID)
	}
	w.nothingLeft(name)
	if err := w.runtime.Remove(t.Context(), web.ID); err != nil {
		t.Error(err)
	}
	w.nothingLeft(fmt.Sprintf("warm.1.demo.box.%d", web.Slot))
}

// TestRuntimeWarmDies: what died while it waited is not used.
func TestRuntimeWarmDies(t *testing.T) {
	w := newWorld(t)
	in := w.instance("")
	if err := w.runtime.Warm(t.Context(), []cluster.Instance{in}); err != nil {
		t.Fatal(err)
	}
	proc := w.runtime.warm[keyOf(&in)].proc
	if err := proc.signal(9); err != nil {
		t.Fatal(err)
	}
	proc.wait()
	in.ID = "demo.box.1.a"
	w.start(in)
	w.awaitLog(in.ID, "serving")
	if err := w.runtime.Warm(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if got := w.runtime.Warmed(); len(got) != 0 {
		t.Errorf("got warm %v, want none", got)
	}
}

// TestRuntimeKindle: a program that was let go early is the instance's when one comes, and is replaced by
// one that has run nothing if none comes.
func TestRuntimeKindle(t *testing.T) {
	w := newWorld(t)
	in, other := w.instance(""), w.instance("")
	other.Service, other.Spec.Name = "other", "other"
	list := []cluster.Instance{in, other}
	if err := w.runtime.Kindle(list); err != nil {
		t.Errorf("nothing was made ahead: got %v, want nothing done", err)
	}
	if err := w.runtime.Warm(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	pid := w.runtime.warm[keyOf(&in)].madeAhead
	for range 2 {
		if err := w.runtime.Kindle(list); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.runtime.List(); len(got) != 0 {
		t.Errorf("got containers %v, want none: there is no instance yet", got)
	}
	in.ID = "demo.box.1.a"
	if run := w.start(in); run.PID != pid {
		t.Errorf("got process %d, want %d that was started early", run.PID, pid)
	}
	w.awaitLog(in.ID, "serving")
	if e, err := w.runtime.Stop(t.Context(), in.ID, "", time.Minute); err != nil || !e.OK() {
		t.Errorf("stop: got %v, %v, want exit code 0", e, err)
	}

	b := w.runtime.warm[keyOf(&other)]
	if err := w.runtime.Warm(t.Context(), []cluster.Instance{other}); err != nil || w.runtime.warm[keyOf(&other)] != b {
		t.Errorf("got %v and another container, want the started one kept for a while", err)
	}
	b.kindled = b.kindled.Add(-KindleKeep)
	if err := w.runtime.Warm(t.Context(), []cluster.Instance{other}); err != nil {
		t.Fatal(err)
	}
	fresh := w.runtime.warm[keyOf(&other)]
	if fresh == nil || fresh == b || !fresh.kindled.IsZero() || b.proc.alive() {
		t.Errorf("got %+v, want a new container that has run nothing, and the old one gone", fresh)
	}
	w.nothingLeft(b.Name)
	if err := w.runtime.Warm(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}
