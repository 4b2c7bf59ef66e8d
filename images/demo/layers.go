package demo

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/skein-os/skein/initramfs/debian"
	"github.com/skein-os/skein/initramfs/tree"
)

//go:embed files
var files embed.FS

// applets of busybox that get a name of their own in /bin.
var applets = []string{
	"cat", "date", "df", "echo", "env", "free", "grep", "head", "hostname", "id", "ip", "kill", "ls", "nc",
	"netstat", "nslookup", "ping", "ps", "sh", "sleep", "tail", "top", "touch", "true", "wc", "wget",
}

// baseTree is what all images have: a shell, and names for the users.
func baseTree(ctx context.Context, a *debian.Archive) (*tree.Tree, error) {
	t := tree.NewMerged()
	p, err := a.Fetch(ctx, "busybox-static")
	if err != nil {
		return nil, err
	}
	if err := copyFrom(t, p, "/bin/busybox", 0o755); err != nil {
		return nil, err
	}
	if err := copyFrom(t, p, licence(p), 0o644); err != nil {
		return nil, err
	}
	for _, name := range applets {
		if err := t.Link("/bin/"+name, "busybox"); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "var"} {
		if err := t.Dir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := t.Dir("tmp", 0o777|fs.ModeSticky); err != nil {
		return nil, err
	}
	return t, addEmbedded(t, "files/base")
}

// nginxLibs are the packages that nginx's libraries are looked for in.
var nginxLibs = []string{"libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"}

// nginxTree is the web server with its libraries: no scripts, no Perl, no modules.
func nginxTree(ctx context.Context, a *debian.Archive) (*tree.Tree, error) {
	t := tree.New() // the links of the merged /usr are in the base layer
	nginx, err := a.Fetch(ctx, "nginx")
	if err != nil {
		return nil, err
	}
	common, err := a.Fetch(ctx, "nginx-common")
	if err != nil {
		return nil, err
	}
	var packages []debian.Package
	for _, name := range nginxLibs {
		p, err := a.Fetch(ctx, name)
		if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	const program = "/usr/sbin/nginx"
	src, err := debian.Resolve(nginx.Root, program)
	if err != nil {
		return nil, err
	}
	if err := t.Copy(program, 0o755, src); err != nil {
		return nil, err
	}
	libs, err := debian.Libraries([]string{src}, packages)
	if err != nil {
		return nil, err
	}
	for _, l := range libs {
		if err := t.Copy(l.Path, 0o755, l.Source); err != nil {
			return nil, err
		}
	}
	if err := copyFrom(t, common, "/etc/nginx/mime.types", 0o644); err != nil {
		return nil, err
	}
	for _, p := range append(packages, nginx, common) {
		if err := copyFrom(t, p, licence(p), 0o644); err != nil {
			return nil, err
		}
	}
	return t, addEmbedded(t, "files/nginx")
}

func licence(p debian.Package) string { return "/usr/share/doc/" + p.Name + "/copyright" }

func copyFrom(t *tree.Tree, p debian.Package, name string, perm fs.FileMode) error {
	src, err := debian.Resolve(p.Root, name)
	if err != nil {
		return fmt.Errorf("package %s: %w", p.Name, err)
	}
	return t.Copy(name, perm, src)
}

// addEmbedded adds the files below dir of this package's folder.
func addEmbedded(t *tree.Tree, dir string) error {
	return fs.WalkDir(files, dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		return t.File(strings.TrimPrefix(name, dir), 0o644, data)
	})
}

// layer packs the tree as a gzipped tar. Times are zero and owners root.
func layer(t *tree.Tree) (v1.Layer, error) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if err := writeTar(z, t); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

func writeTar(w io.Writer, t *tree.Tree) error {
	tw := tar.NewWriter(w)
	err := t.Walk(func(name string, e tree.Entry) error {
		h := &tar.Header{
			Name: strings.TrimPrefix(name, "/"), Mode: int64(e.Mode.Perm()), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
		}
		if e.Mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch e.Mode.Type() {
		case 0:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.Data))
		case fs.ModeDir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case fs.ModeSymlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
		default:
			return fmt.Errorf("cannot put a file of kind %s into an image", e.Mode)
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(e.Data)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// siteTree is the last layer of a web image: pages from the repository, files that are made here.
func siteTree(dir string, made map[string][]byte) (*tree.Tree, error) {
	t := tree.New()
	if err := addEmbedded(t, "files/"+dir); err != nil {
		return nil, err
	}
	for name, data := range made {
		if err := t.File(path.Join("/usr/share/nginx/html", name), 0o644, data); err != nil {
			return nil, err
		}
	}
	return t, nil
}
