package workload

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"

	"github.com/skein-os/skein/agent/cluster"
)

// volumeName is what a volume of the ledger may be called.
var volumeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)

const (
	// VolumeDriver is the driver of a volume that moves with its service.
	VolumeDriver = "skein"
	// SharedDriver is the driver of a folder on a shared file system: all instances of all services may have it at once.
	SharedDriver = "skein-shared"
)

const noBind = "a folder of a node stays behind when the service moves: use a volume (volumes: {data: {driver: skein}} and data:/path here), tmpfs for scratch data, configs for small files"

// checkVolumes looks at the volumes of the file and at their uses, on the tree as written: compose-go would take
// folders of the machine that it runs on, and drivers that are not here.
func (f *file) checkVolumes(root map[string]any) {
	declared, _ := root["volumes"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		f.checkVolume(join("volumes", name), name, declared[name])
	}
	services, _ := root["services"].(map[string]any)
	user := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s, _ := services[name].(map[string]any)
		list, _ := s["volumes"].([]any)
		for i, v := range list {
			p := join(join("services", name), "volumes."+itoa(i))
			source, named := f.checkUse(p, v)
			if !named {
				continue
			}
			if _, there := declared[source]; !there {
				f.fail(p, "there is no volume %s in this file: write volumes: {%s: {driver: skein}} beside services:", source, source)
				continue
			}
			if declaresShared(declared[source]) {
				continue // whoever likes
			}
			switch o := user[source]; {
			case o == name:
				f.fail(p, "volume %s is here twice", source)
			case o != "":
				f.fail(p, "volume %s is service %s's: a volume has one service", source, o)
			}
			user[source] = name
		}
	}
}

// checkUse tells the volume that an item of a service's volumes names, if it is one that may be.
func (f *file) checkUse(p string, v any) (source string, named bool) {
	switch v := v.(type) {
	case string:
		source, target, has := strings.Cut(v, ":")
		switch {
		case !has && strings.HasPrefix(v, "/"):
			f.fail(p, "a volume needs a name: write data:%s here and volumes: {data: {driver: skein}} beside services:, or use tmpfs for scratch data", v)
		case !has || target == "":
			f.fail(p, "%q is no volume: write NAME:/path, like data:/var/lib/data", v)
		case strings.ContainsAny(source[:min(1, len(source))], "./~\\") || source == "":
			f.fail(p, "%s", noBind)
		default:
			return source, true
		}
	case map[string]any:
		source, _ := v["source"].(string)
		switch kind, _ := v["type"].(string); {
		case kind == "tmpfs":
		case kind == "volume" && source != "":
			return source, true
		case kind == "volume":
			f.fail(p, "a volume needs a name: write source: data here and volumes: {data: {driver: skein}} beside services:")
		default:
			f.fail(p, "%s", noBind)
		}
	default:
		f.fail(p, "write NAME:/path, like data:/var/lib/data")
	}
	return "", false
}

func (f *file) checkVolume(p, name string, v any) {
	m, ok := v.(map[string]any)
	driver, written := m["driver"]
	switch {
	case v != nil && !ok:
		f.fail(p, "must be a mapping, like {driver: skein}")
		return
	case !written:
		f.fail(p, "it needs a driver: write %s: {driver: skein} for one that moves with its service ('skein volume create' makes it); there are no volumes that stay on a node", name)
		return
	case driver != VolumeDriver && driver != SharedDriver:
		f.fail(p+".driver", "%q is not possible here: write driver: skein for a volume that moves with its service, or driver: skein-shared for a folder that all nodes see", fmt.Sprint(driver))
		return
	}
	sharing := driver == SharedDriver
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch k {
		case "driver", "driver_opts", "labels":
		case "name":
			if text, ok := plain(m[k]); !ok || !volumeName.MatchString(text) {
				f.fail(p+".name", "%q is no volume's name: use lower-case letters, digits, dashes and underscores", text)
			}
		case "external":
			// It is what all of ours are: made before, and not removed with the stack.
		default:
			if !strings.HasPrefix(k, "x-") {
				f.fail(join(p, k), "unknown key; there are driver, name and driver_opts")
			}
		}
	}
	opts, ok := m["driver_opts"].(map[string]any)
	if m["driver_opts"] != nil && !ok {
		f.fail(p+".driver_opts", "must be a mapping with size:, fs: and disk:")
	}
	if sharing {
		for _, k := range slices.Sorted(maps.Keys(opts)) {
			if text, ok := plain(opts[k]); k != "filesystem" || !ok || !volumeName.MatchString(text) {
				f.fail(join(p+".driver_opts", k), "of driver skein-shared there is filesystem: NAME only, see 'skein shared ls'")
			}
		}
		return
	}
	op := p + ".driver_opts"
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		text, _ := plain(opts[k])
		switch k {
		case "size":
			f.checkSize(opts, op, k)
		case "fs":
			if text != cluster.Ext4 && text != cluster.XFS {
				f.fail(op+".fs", "%q is not one of ext4, xfs", text)
			}
		case "disk":
			if text == "" {
				f.fail(op+".disk", "it is the WWN or alias of a disk, see 'skein disk ls'")
			}
		default:
			f.fail(join(op, k), "unknown option; there are size, fs and disk")
		}
	}
}

// declaresShared tells whether a volume of the file is a folder of a shared file system.
func declaresShared(v any) bool {
	m, _ := v.(map[string]any)
	return m["driver"] == SharedDriver
}

// share gives the service a folder of a shared file system, which is the ledger's to resolve (cluster.State.ResolveShares).
func (f *file) share(s *cluster.Service, p, folder string, v *types.ServiceVolumeConfig, d types.VolumeConfig) {
	at := f.at(p)
	s.Shares = append(s.Shares, cluster.SharedUse{Name: d.DriverOpts["filesystem"], Folder: folder, Target: v.Target, ReadOnly: v.ReadOnly,
		At: fmt.Sprintf("%s:%d:%d", f.name, at.line, at.column)})
}

// volume gives the service a volume, which is the ledger's to resolve (cluster.State.ResolveVolumes).
func (f *file) volume(s *cluster.Service, p string, v *types.ServiceVolumeConfig, project *types.Project) {
	if !f.checkTarget(p, v.Target) {
		return
	}
	d := project.Volumes[v.Source]
	name := cmp.Or(d.Name, project.Name+"_"+v.Source)
	if !volumeName.MatchString(name) {
		f.fail(p, "%q is no volume's name: give it one with name: in volumes.%s", name, v.Source)
		return
	}
	if d.Driver == SharedDriver {
		f.share(s, p, name, v, d)
		return
	}
	if s.Mode == cluster.ModeGlobal || s.Replicas > 1 {
		f.fail(p, "a volume has one writer, so the service can have one instance only: set replicas to 1 and mode to replicated")
		return
	}
	at := f.at(p)
	asked := &cluster.VolumeAsked{At: fmt.Sprintf("%s:%d:%d", f.name, at.line, at.column), FS: d.DriverOpts["fs"], Disk: d.DriverOpts["disk"]}
	if text := d.DriverOpts["size"]; text != "" {
		var b types.UnitBytes
		if err := b.DecodeMapstructure(text); err != nil {
			f.fail("volumes."+v.Source+".driver_opts.size", "%q is no size: write it like 64M or 1G", text)
			return
		}
		asked.Size = int64(b)
	}
	s.Volumes = append(s.Volumes, cluster.Volume{Name: name, Target: v.Target, ReadOnly: v.ReadOnly, Asked: asked})
	s.Safety = cluster.SafetyStorage
}
