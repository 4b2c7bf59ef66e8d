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
	out.Ref, out.Revision = repo+"@"+i.Top(), 0
	return out
}
