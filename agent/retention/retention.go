// Package retention decides which images are forgotten. It has no I/O and no clock.
//
// It promises: an image that a service, an instance or a job is made of stays, whatever is asked and however little room
// there is; so does an artifact as long as what it is about is there. To make room only such images go as can be had
// again, or as lost their name to a newer one; what was loaded from an archive or pushed under a tag goes only when
// somebody asks.
package retention

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/container"
)

// Uses tells by digest what is made of an image, for people.
type Uses map[string]string

// InUse finds what needs images. jobs are those that have not ended, by the digest of their image. Heirs are of services,
// so what they need is in it.
func InUse(st *cluster.State, jobs map[string]string) Uses {
	u := Uses{}
	for digest, what := range jobs {
		u[digest] = what
	}
	for i := range st.Updates {
		if o := &st.Updates[i]; o.Before != nil {
			u[o.Before.ImageDigest] = "service " + o.Before.FullName() + ", to go back to"
		}
	}
	for i := range st.Instances {
		in := &st.Instances[i]
		u[in.Spec.ImageDigest] = "instance " + in.ID
	}
	for i := range st.Services {
		s := &st.Services[i]
		u[s.ImageDigest] = "service " + s.FullName()
	}
	delete(u, "")
	return u
}

// Of tells what needs an image: itself, or for an index any part of it.
func (u Uses) Of(im *cluster.Image) string {
	if what := u[im.Digest]; what != "" {
		return what
	}
	for _, b := range im.Blobs {
		if what := u[b]; what != "" {
			return what
		}
	}
	return ""
}

// Extent is which unused images are to go.
type Extent int

const (
	// Dangling are those without a tag: replaced by a newer one, or pushed by digest as the part of something.
	Dangling Extent = iota
	// Unused are all.
	Unused
	// Space are dangling ones and those that can be had again from their registry, the longest unused first, until there
	// is enough room.
	Space
)

// Grace is how long an image without a tag stays: it may be part of what is being pushed, or be wanted back.
const Grace = time.Hour

// Marks of free room, as shares of the whole: below LowMark images are removed until HighMark is reached.
const (
	LowMark  = 0.10
	HighMark = 0.20
)

// Room is that of one node's images, bytes.
type Room struct{ Free, Size int64 }

// Short tells whether images have to go.
func (r Room) Short() bool { return float64(r.Free) < LowMark*float64(r.Size) }

// lacks is how much is to be freed.
func (r Room) lacks() int64 { return int64(HighMark*float64(r.Size)) - r.Free }

// Removal is an image that goes.
type Removal struct {
	cluster.Image
	Why   string `json:"why"`
	Frees int64  `json:"frees_bytes"` // on each node: blobs that no image needs then
}

// Plan tells which images go, in order. size is that of a blob, 0 if it is not known.
func Plan(st *cluster.State, uses Uses, what Extent, room Room, size func(digest string) int64, now time.Time) []Removal {
	needs := map[string]int{} // names that need a blob
	for i := range st.Images {
		for _, b := range distinct(st.Images[i].Blobs) {
			needs[b]++
		}
	}
	candidates := []*cluster.Image{}
	for i := range st.Images {
		candidates = append(candidates, &st.Images[i])
	}
	slices.SortStableFunc(candidates, func(a, b *cluster.Image) int { return last(a).Compare(last(b)) })
	if what == Space { // what has lost its name goes before what has one
		slices.SortStableFunc(candidates, func(a, b *cluster.Image) int {
			return cmp.Compare(boolInt(!dangling(a)), boolInt(!dangling(b)))
		})
	}
	gone := map[string]bool{}
	var out []Removal
	lacks := room.lacks()
	// Twice: an artifact may go after the image that it was about.
	for range 2 {
		for _, im := range candidates {
			if gone[im.Ref] || uses.Of(im) != "" || what == Space && (!room.Short() || lacks <= 0) {
				continue
			}
			why := reason(im, what, now)
			if why == "" || im.Subject != "" && present(st, im, gone) {
				continue
			}
			r := Removal{Image: *im, Why: why}
			for _, b := range distinct(im.Blobs) {
				if needs[b]--; needs[b] == 0 {
					r.Frees += size(b)
				}
			}
			gone[im.Ref] = true
			lacks -= r.Frees
			out = append(out, r)
		}
	}
	return out
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func distinct(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}

// last is when an image was last of use.
func last(im *cluster.Image) time.Time {
	if im.Used.After(im.Loaded) {
		return im.Used
	}
	return im.Loaded
}

// dangling: it has no tag, and nobody asked for it by digest.
func dangling(im *cluster.Image) bool {
	return strings.Contains(im.Ref, "@") && (im.Replaced || im.Source == container.SourcePush)
}

// reason tells why an unused image goes, "" if it stays.
func reason(im *cluster.Image, what Extent, now time.Time) string {
	again := im.Source != "" && im.Source != container.SourceArchive && im.Source != container.SourcePush
	switch {
	case what == Unused:
		return "nothing is made of it"
	case dangling(im) && now.Sub(last(im)) >= Grace:
		return "nothing is made of it, and it has no name any more"
	case what == Space && again && now.Sub(last(im)) >= Grace:
		return "nothing is made of it, and " + im.Source + " has it"
	}
	return ""
}

// present tells whether what an artifact is about is still in its repository.
func present(st *cluster.State, artifact *cluster.Image, gone map[string]bool) bool {
	repo, _, _ := cluster.SplitRef(artifact.Ref)
	return slices.ContainsFunc(st.Images, func(im cluster.Image) bool {
		r, _, _ := cluster.SplitRef(im.Ref)
		return r == repo && !gone[im.Ref] && im.Ref != artifact.Ref && slices.Contains(im.Blobs, artifact.Subject)
	})
}

// Drop is the change that forgets images, if they are as they were.
func Drop(list []Removal) cluster.Txn {
	var t cluster.Txn
	for i := range list {
		t.Conditions = append(t.Conditions, cluster.Condition{Key: list[i].Key(), Revision: list[i].Revision})
		t.Deletes = append(t.Deletes, list[i].Key())
	}
	return t
}

// ForgetAfter is how long a node keeps an image that the ledger does not have (any more): one that it was given a moment ago
// is not in there yet, and instances of one that was removed need time to end.
const ForgetAfter = 2 * time.Minute

// Forget tells which names a node's store is to forget. missed is since when the ledger has not had them; it is brought
// up to date.
func Forget(names []cluster.Image, st *cluster.State, uses Uses, missed map[string]time.Time, now time.Time) []string {
	known := map[string]bool{}
	for i := range st.Images {
		known[st.Images[i].Ref] = true
	}
	var out []string
	here := map[string]bool{}
	for i := range names {
		im := &names[i]
		if known[im.Ref] || uses.Of(im) != "" {
			continue
		}
		here[im.Ref] = true
		since, ok := missed[im.Ref]
		if !ok {
			missed[im.Ref] = now
		} else if now.Sub(since) >= ForgetAfter {
			out = append(out, im.Ref)
		}
	}
	for ref := range missed {
		if !here[ref] {
			delete(missed, ref)
		}
	}
	return out
}
