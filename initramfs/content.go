package initramfs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/skein-os/skein/initramfs/debian"
	"github.com/skein-os/skein/initramfs/kernel"
	"github.com/skein-os/skein/initramfs/tree"
)

// program is a C program that can be put in, with the packages of its libraries.
type program struct {
	path     string // in its package and in the image
	pkg      string
	packages []string
}

var libc = []string{"libc6"}

// programs that Options.Tools may name.
var programs = map[string]program{
	"crun": {"/usr/bin/crun", "crun", []string{
		"libsystemd0", "libseccomp2", "libcap2", "libyajl2", "libgcrypt20", "libgpg-error0", "liblzma5", "libzstd1", "liblz4-1"}},
	"mke2fs":     {"/sbin/mke2fs", "e2fsprogs", e2libs},
	"e2fsck":     {"/sbin/e2fsck", "e2fsprogs", e2libs},
	"resize2fs":  {"/sbin/resize2fs", "e2fsprogs", e2libs},
	"mkfs.xfs":   {"/sbin/mkfs.xfs", "xfsprogs", xfslibs},
	"xfs_repair": {"/sbin/xfs_repair", "xfsprogs", xfslibs},
	"mkfs.gfs2":  {"/usr/sbin/mkfs.gfs2", "gfs2-utils", gfs2libs},
	"fsck.gfs2":  {"/usr/sbin/fsck.gfs2", "gfs2-utils", gfs2libs},
	"gfs2_grow":  {"/usr/sbin/gfs2_grow", "gfs2-utils", gfs2libs},
	"gfs2_jadd":  {"/usr/sbin/gfs2_jadd", "gfs2-utils", gfs2libs},
	"iscsid":     {"/sbin/iscsid", "open-iscsi", iscsilibs},
	"iscsiadm":   {"/usr/bin/iscsiadm", "open-iscsi", iscsilibs},
}

var (
	e2libs    = []string{"libext2fs2", "libcom-err2", "libblkid1", "libuuid1"}
	xfslibs   = []string{"libblkid1", "libuuid1", "libinih1", "liburcu8"}
	gfs2libs  = []string{"libblkid1", "libuuid1"}
	iscsilibs = []string{
		"libopeniscsiusr", "libisns0", "libssl3", "libkmod2", "libmount1", "libblkid1", "libselinux1", "libpcre2-8-0",
		"libsystemd0", "libcap2", "libgcrypt20", "libgpg-error0", "liblzma5", "libzstd1", "liblz4-1",
	}
)

const certificates = "ca-certificates"

// kernelPackage is the pinned package that has the kernel.
func kernelPackage(pins debian.Pins) (string, error) {
	var found []string
	for name := range pins {
		if strings.HasPrefix(name, "linux-image-") {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("pins.json: want one linux-image package, have %d", len(found))
	}
	return found[0], nil
}

// toolPackages lists the packages that tools need, sorted.
func toolPackages(tools []string) ([]string, error) {
	names := slices.Clone(libc)
	for _, t := range tools {
		p, ok := programs[t]
		if !ok {
			return nil, fmt.Errorf("no tool %q; there is: %s", t, strings.Join(slices.Sorted(maps.Keys(programs)), ", "))
		}
		names = append(append(names, p.pkg), p.packages...)
	}
	sort.Strings(names)
	return slices.Compact(names), nil
}

// content is the tree of an image and the packages that are in it.
type content struct {
	tree     *tree.Tree
	packages map[string]debian.Package
	kernel   string // release
	modules  int
	bzImage  []byte
}

// step adds a part of the tree.
type step func(*content, context.Context, Options) error

// What the archives are made of, all but the first program and the manifest.
var (
	nodeSteps = []step{(*content).addBase, (*content).addKernel, (*content).addTools, (*content).addCertificates, (*content).addLicences}
	sanSteps  = []step{(*content).addBase, (*content).addKernel, (*content).addTools, (*content).addLicences}
)

// gather fetches the packages and makes the tree.
func gather(ctx context.Context, o Options, steps []step) (*content, error) {
	c := &content{tree: tree.NewMerged(), packages: map[string]debian.Package{}}
	for _, step := range steps {
		if err := step(c, ctx, o); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *content) fetch(ctx context.Context, o Options, name string) (debian.Package, error) {
	p, err := o.Archive.Fetch(ctx, name)
	if err == nil {
		c.packages[p.Name] = p
	}
	return p, err
}

// addBase adds what a Unix program expects to find. The kernel opens /dev/console for PID 1 before
// anything is mounted.
func (c *content) addBase(context.Context, Options) error {
	for _, d := range []string{"dev", "etc", "proc", "root", "run", "sys", "var", "usr/bin", "usr/sbin"} {
		if err := c.tree.Dir(d, 0o755); err != nil {
			return err
		}
	}
	if err := c.tree.Dir("tmp", 0o777|fs.ModeSticky); err != nil {
		return err
	}
	if err := c.tree.Device("dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := c.tree.Device("dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	files := map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
		"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	}
	for name, text := range files {
		if err := c.tree.File(name, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	return c.tree.Link("var/run", "../run")
}

// seal adds the first program and what the archive is made of, and packs it up.
func (c *content) seal(name string, program []byte, profile string) ([]byte, Manifest, error) {
	m := Manifest{Kernel: c.kernel, Profile: profile, Skeind: sum(program), Modules: c.modules}
	if err := c.tree.Link("init", "bin/"+name); err != nil {
		return nil, m, err
	}
	if err := c.tree.File("/bin/"+name, 0o755, program); err != nil {
		return nil, m, err
	}
	m.Contents = c.tree.Size()
	for _, name := range sortedNames(c.packages) {
		m.Packages = append(m.Packages, PackageEntry{Package: c.packages[name], Licence: licencePath(name)})
	}
	inside, err := m.json()
	if err != nil {
		return nil, m, err
	}
	if err := c.tree.File("/etc/skein/manifest.json", 0o644, inside); err != nil {
		return nil, m, err
	}
	var archive bytes.Buffer
	if err := writeArchive(&archive, c.tree); err != nil {
		return nil, m, fmt.Errorf("make the archive: %w", err)
	}
	return archive.Bytes(), m, nil
}

// moduleList is /etc/skein/modules.json: what PID 1 loads, in this order, and what is loaded when it is
// needed (package storage/modules), because it would make every boot longer.
type moduleList struct {
	Kernel string   `json:"kernel"`
	Load   []string `json:"load"`   // relative to /lib/modules/<kernel>/
	Demand []string `json:"demand"` // as Load, each after those it depends on that are not in Load
}

func (c *content) addKernel(ctx context.Context, o Options) error {
	name, err := kernelPackage(o.Archive.Pins)
	if err != nil {
		return err
	}
	p, err := c.fetch(ctx, o, name)
	if err != nil {
		return err
	}
	mods, err := kernel.Open(p.Root)
	if err != nil {
		return err
	}
	c.kernel = mods.Version
	wanted, err := kernel.Profile(o.Profile)
	if err != nil {
		return err
	}
	load, err := mods.Closure(append(slices.Clone(wanted), o.Modules...))
	if err != nil {
		return err
	}
	later, err := kernel.OnDemand(o.Profile)
	if err != nil {
		return err
	}
	all, err := mods.Closure(slices.Concat(wanted, o.Modules, later)) // begins with load
	if err != nil {
		return err
	}
	list := moduleList{Kernel: mods.Version}
	for i, m := range all {
		if i < len(load) {
			list.Load = append(list.Load, m.Path)
		} else {
			list.Demand = append(list.Demand, m.Path)
		}
		if err := c.tree.File(path.Join("/lib/modules", mods.Version, m.Path), 0o644, m.Data); err != nil {
			return err
		}
	}
	c.modules = len(all)
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := c.tree.File("/etc/skein/modules.json", 0o644, append(data, '\n')); err != nil {
		return err
	}
	image, err := debian.Resolve(p.Root, "/boot/vmlinuz-"+mods.Version)
	if err != nil {
		return err
	}
	c.bzImage, err = os.ReadFile(image)
	return err
}

func (c *content) addTools(ctx context.Context, o Options) error {
	if len(o.Tools) == 0 {
		return nil
	}
	names, err := toolPackages(o.Tools)
	if err != nil {
		return err
	}
	byName := map[string]debian.Package{}
	var packages []debian.Package
	for _, n := range names {
		p, err := o.Archive.Fetch(ctx, n)
		if err != nil {
			return err
		}
		byName[n] = p
		packages = append(packages, p)
	}
	var sources []string
	for _, t := range o.Tools {
		prog := programs[t]
		p := byName[prog.pkg]
		src, err := debian.Resolve(p.Root, prog.path)
		if err != nil {
			return err
		}
		if err := c.tree.Copy(prog.path, 0o755, src); err != nil {
			return err
		}
		c.packages[p.Name] = p
		sources = append(sources, src)
	}
	if slices.Contains(o.Tools, "mke2fs") {
		p := byName["e2fsprogs"]
		src, err := debian.Resolve(p.Root, "/etc/mke2fs.conf")
		if err != nil {
			return err
		}
		if err := c.tree.Copy("/etc/mke2fs.conf", 0o644, src); err != nil {
			return err
		}
		if err := c.tree.Link("/sbin/mkfs.ext4", "mke2fs"); err != nil {
			return err
		}
	}
	libs, err := debian.Libraries(sources, packages)
	if err != nil {
		return err
	}
	for _, l := range libs {
		if err := c.tree.Copy(l.Path, 0o755, l.Source); err != nil {
			return err
		}
		c.packages[l.Package.Name] = l.Package // only packages that gave a library are in the image
	}
	return nil
}

// addCertificates makes the bundle that update-ca-certificates would make of Mozilla's roots.
func (c *content) addCertificates(ctx context.Context, o Options) error {
	p, err := c.fetch(ctx, o, certificates)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(p.Root, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("package %s %s has no certificates", p.Name, p.Version)
	}
	sort.Strings(files)
	var bundle []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		bundle = append(bundle, data...)
		if len(data) > 0 && data[len(data)-1] != '\n' {
			bundle = append(bundle, '\n')
		}
	}
	return c.tree.File("/etc/ssl/certs/ca-certificates.crt", 0o644, bundle)
}

// licencePath is where Debian has a package's copyright file.
func licencePath(pkg string) string { return "/usr/share/doc/" + pkg + "/copyright" }

// addLicences adds the copyright files of all packages in the image. Some packages link theirs to a
// sibling's of the same source; then the sibling has it.
func (c *content) addLicences(context.Context, Options) error {
	for _, name := range sortedNames(c.packages) {
		p := c.packages[name]
		src, err := debian.Resolve(p.Root, licencePath(name))
		if err != nil {
			return fmt.Errorf("package %s: its licence text is missing: %w", name, err)
		}
		if err := c.tree.Copy(licencePath(name), 0o644, src); err != nil {
			return err
		}
	}
	return nil
}

func sortedNames(packages map[string]debian.Package) []string {
	names := make([]string, 0, len(packages))
	for n := range packages {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
