package retention

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// anyState has images of few blobs, so that they share them, and services, instances and jobs of some.
func anyState(t *rapid.T) (st *cluster.State, jobs map[string]string) {
	st = &cluster.State{}
	for i := range rapid.IntRange(0, 12).Draw(t, "images") {
		im := cluster.Image{
			Digest: fmt.Sprint("m", rapid.IntRange(0, 5).Draw(t, "digest")),
			Source: rapid.SampledFrom([]string{container.SourceArchive, container.SourcePush, "registry.example.org"}).Draw(t, "source"),
			Loaded: now.Add(-time.Duration(rapid.IntRange(0, 300).Draw(t, "age")) * time.Minute), Replaced: rapid.Bool().Draw(t, "replaced"),
			Revision: int64(i + 1),
		}
		im.Ref = fmt.Sprintf("r%d:%d", i%2, i)
		if rapid.Bool().Draw(t, "untagged") {
			im.Ref = fmt.Sprintf("r%d@%s.%d", i%2, im.Digest, i)
		}
		im.Blobs = append([]string{im.Digest}, rapid.SliceOfN(rapid.SampledFrom([]string{"b1", "b2", "b3", "m1", "m2"}), 0, 3).Draw(t, "blobs")...)
		if rapid.IntRange(0, 3).Draw(t, "artifact") == 0 {
			im.Artifact, im.Subject = true, fmt.Sprint("m", rapid.IntRange(0, 5).Draw(t, "subject"))
		}
		st.Images = append(st.Images, im)
	}
	digest := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("m", rapid.IntRange(0, 7).Draw(t, "used")) })
	for i, d := range rapid.SliceOfN(digest, 0, 2).Draw(t, "services") {
		st.Services = append(st.Services, cluster.Service{Stack: "s", Name: fmt.Sprint(i), ImageDigest: d})
	}
	for i, d := range rapid.SliceOfN(digest, 0, 2).Draw(t, "instances") {
		st.Instances = append(st.Instances, cluster.Instance{ID: fmt.Sprint(i), Spec: cluster.Service{ImageDigest: d}})
	}
	jobs = map[string]string{}
	for _, d := range rapid.SliceOfN(digest, 0, 2).Draw(t, "jobs") {
		jobs[d] = "job x"
	}
	return st, jobs
}

// needed are the digests of what is made of images, found without the package's help.
func needed(st *cluster.State, jobs map[string]string) map[string]bool {
	out := map[string]bool{}
	for _, s := range st.Services {
		out[s.ImageDigest] = true
	}
	for _, in := range st.Instances {
		out[in.Spec.ImageDigest] = true
	}
	for d := range jobs {
		out[d] = true
	}
	return out
}

// TestNothingInUseGoes: whatever is asked, all blobs of all images in use stay, and what was given in goes only when
// asked for.
func TestNothingInUseGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, jobs := anyState(t)
		what := Extent(rapid.IntRange(0, 2).Draw(t, "extent"))
		room := Room{Free: int64(rapid.IntRange(0, 100).Draw(t, "free")), Size: 100}
		plan := Plan(st, InUse(st, jobs), what, room, func(string) int64 { return 7 }, now)
		gone, freed := map[string]bool{}, int64(0)
		for _, r := range plan {
			if gone[r.Ref] {
				t.Fatalf("%s goes twice", r.Ref)
			}
			gone[r.Ref] = true
			freed += r.Frees
			if what != Unused && (r.Source == container.SourceArchive && !r.Replaced || r.Source == container.SourcePush && !dangling(&r.Image)) {
				t.Fatalf("%s goes, which nobody can give back", r.Ref)
			}
			if what != Unused && now.Sub(r.Loaded) < Grace {
				t.Fatalf("%s goes before its time", r.Ref)
			}
		}
		before, after := map[string]bool{}, map[string]bool{}
		use := needed(st, jobs)
		for i := range st.Images {
			im := &st.Images[i]
			inUse := slices.ContainsFunc(append(slices.Clone(im.Blobs), im.Digest), func(d string) bool { return use[d] })
			if inUse && gone[im.Ref] {
				t.Fatalf("%s goes and is in use", im.Ref)
			}
			for _, b := range im.Blobs {
				before[b] = true
				after[b] = after[b] || !gone[im.Ref]
			}
		}
		lost := int64(0)
		for b := range before {
			if !after[b] {
				lost += 7
			}
		}
		if lost != freed {
			t.Fatalf("says that %d bytes become free, it is %d", freed, lost)
		}
		if what == Space && !room.Short() && len(plan) > 0 {
			t.Fatal("images go though there is room")
		}
	})
}

// TestForget: a node's store keeps what the ledger has and what is in use, and forgets the rest when its time is up.
func TestForget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		st, jobs := anyState(t)
		var names []cluster.Image
		for i, im := range st.Images {
			names = append(names, im)
			im.Ref = fmt.Sprint("local:", i)
			names = append(names, im)
		}
		missed := map[string]time.Time{}
		if got := Forget(names, st, InUse(st, jobs), missed, now); len(got) != 0 {
			t.Fatalf("%v go at first sight", got)
		}
		use := needed(st, jobs)
		got := Forget(names, st, InUse(st, jobs), missed, now.Add(ForgetAfter))
		for _, im := range names {
			inUse := slices.ContainsFunc(append(slices.Clone(im.Blobs), im.Digest), func(d string) bool { return use[d] })
			stays := inUse || st.Image(im.Ref) != nil
			if stays == slices.Contains(got, im.Ref) {
				t.Fatalf("%s: stays %v, forgotten %v", im.Ref, stays, !stays)
			}
		}
	})
}

func TestPlan(t *testing.T) {
	old := now.Add(-24 * time.Hour)
	st := &cluster.State{
		Images: []cluster.Image{
			{Ref: "archive:1", Digest: "a", Blobs: []string{"a", "base"}, Source: container.SourceArchive, Loaded: old},
			{Ref: "old@b", Digest: "b", Blobs: []string{"b", "base"}, Source: container.SourceArchive, Loaded: old.Add(time.Hour), Replaced: true},
			{Ref: "pushed:1", Digest: "c", Blobs: []string{"c"}, Source: container.SourcePush, Loaded: old},
			{Ref: "example.org/x:1", Digest: "d", Blobs: []string{"d"}, Source: "example.org", Loaded: old},
			{Ref: "example.org/y:1", Digest: "e", Blobs: []string{"e"}, Source: "example.org", Loaded: old, Used: now.Add(-2 * time.Hour)},
			{Ref: "signed:1", Digest: "f", Blobs: []string{"f"}, Source: container.SourcePush, Loaded: old},
			{Ref: "signed@sig", Digest: "sig", Blobs: []string{"sig"}, Source: container.SourcePush, Loaded: old, Artifact: true, Subject: "f"},
			{Ref: "used:1", Digest: "g", Blobs: []string{"g"}, Source: container.SourcePush, Loaded: old},
		},
		Services: []cluster.Service{{Stack: "demo", Name: "web", ImageDigest: "g"}},
	}
	for _, c := range []struct {
		what Extent
		free int64
		want []string
	}{
		{Dangling, 0, []string{"old@b"}},
		{Space, 50, nil},
		{Space, 19, nil},                                 // not short yet
		{Space, 9, []string{"old@b", "example.org/x:1"}}, // 10 bytes each: at 29 there is enough
		{Space, 0, []string{"old@b", "example.org/x:1"}}, // exactly enough
		{Unused, 0, []string{"archive:1", "pushed:1", "example.org/x:1", "signed:1", "signed@sig", "old@b", "example.org/y:1"}},
	} {
		var got []string
		for _, r := range Plan(st, InUse(st, nil), c.what, Room{c.free, 100}, func(string) int64 { return 10 }, now) {
			got = append(got, r.Ref)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("extent %d with %d free: got %q, want %q", c.what, c.free, got, c.want)
		}
	}
}
