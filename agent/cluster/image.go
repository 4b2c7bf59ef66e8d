package cluster

import (
	"strings"
)

// RegistryName is what the cluster's own registry is called in references, with any port: registry.cluster:7702/demo/web:1
// is the image demo/web:1.
const RegistryName = "registry.cluster"

// PlainRef cuts the cluster's own registry off a reference.
func PlainRef(ref string) string {
	host, rest, ok := strings.Cut(ref, "/")
	if name, _, _ := strings.Cut(host, ":"); ok && name == RegistryName {
		return rest
	}
	return ref
}

// SplitRef takes a normalized reference apart: one of tag and digest is empty.
func SplitRef(ref string) (repo, tag, digest string) {
	repo, digest, ok := strings.Cut(ref, "@")
	if ok {
		return repo, "", digest
	}
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:], ""
	}
	return ref, "", ""
}

// ByDigest is the image under its digest instead of its tag: what a name that now means another image meant before.
func (i *Image) ByDigest() Image {
	out := *i
	repo, _, _ := SplitRef(i.Ref)
	out.Ref, out.Revision, out.Replaced = repo+"@"+i.Top(), 0, true
	return out
}

// RecordImages is the change that names images. What a name meant before stays under its digest: it may run, or be
// wanted back.
func RecordImages(st *State, images []Image) Txn {
	var t Txn
	for _, im := range images {
		if old := st.Image(im.Ref); old != nil && old.Top() != im.Top() {
			by := old.ByDigest()
			t.Conditions = append(t.Conditions, Condition{Key: old.Key(), Revision: old.Revision})
			if st.Image(by.Ref) == nil {
				by.Loaded = im.Loaded // it is replaced now: that is what its time is counted from
				t.Puts = append(t.Puts, Put{Key: by.Key(), Value: by})
			}
		}
		t.Puts = append(t.Puts, Put{Key: im.Key(), Value: im})
	}
	return t
}

// Image finds an image by its normalized reference, nil if there is none.
func (s *State) Image(ref string) *Image {
	for i := range s.Images {
		if s.Images[i].Ref == ref {
			return &s.Images[i]
		}
	}
	return nil
}
