package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
	"golang.org/x/sys/unix"
)

// bundle makes what crun needs in the container's folder:
//
//	rootfs/        overlay of the image and own/
//	own/upper      what the container changes; with a writable root own/ is a tmpfs with a size
//	etc/, files/   what is bound into the root, read-only
//	config.json    the OCI specification
func (r *Runtime) bundle(name string, in cluster.Instance, root Root, addr netip.Addr) error {
	dir := r.dir(name)
	user := in.Spec.User
	if user == "" {
		user = root.Config.User
	}
	u, home, err := lookupUser(root.Dir, user)
	if err != nil {
		return err
	}
	hostname := in.Spec.Hostname
	if hostname == "" {
		hostname = in.Spec.Name + "-" + strconv.Itoa(in.Slot)
	}
	etc := map[string]string{
		"resolv.conf": fmt.Sprintf("nameserver %s\nsearch %s.skein\noptions timeout:1 attempts:3\n", r.cfg.Resolver, in.Stack),
		"hosts":       fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", addr, hostname),
		"hostname":    hostname + "\n",
	}
	for _, d := range []string{"etc", "files", "own", "rootfs"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for file, text := range etc {
		if err := writeFile(filepath.Join(dir, "etc", file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	var files []string
	for i, f := range in.Spec.Files {
		mode := fs.FileMode(f.Mode).Perm()
		if mode == 0 {
			mode = 0o444
		}
		p := filepath.Join(dir, "files", strconv.Itoa(i))
		if err := writeFile(p, f.Content, mode); err != nil {
			return err
		}
		if err := os.Chmod(p, mode); err != nil { // whatever the umask is
			return err
		}
		files = append(files, p)
	}
	cgroup := ""
	if r.cfg.Cgroup != "" {
		cgroup = r.cfg.Cgroup + "/" + name
	}
	spec, err := makeSpec(specInput{instance: in, image: root.Config, user: u, home: home, hostname: hostname,
		rootfs: filepath.Join(dir, "rootfs"), etc: filepath.Join(dir, "etc"), files: files,
		volumes: r.cfg.Volumes, shared: r.cfg.Shared,
		netns: filepath.Join(dir, "netns"), cgroup: cgroup, noFile: maxOpenFiles()})
	if err != nil {
		return err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		return err
	}
	limit := int64(0)
	if in.Spec.Writable {
		limit = r.cfg.WritableBytes
		if m := in.Spec.Limits.Memory; m > 0 {
			limit = min(limit, m)
		}
	}
	return mountRoot(dir, root.Dir, limit)
}

// mountRoot mounts the overlay. There is one even for a read-only root: crun makes missing mount points in
// it, and they must not appear in the image, which other containers share.
func mountRoot(dir, image string, limit int64) error {
	own := filepath.Join(dir, "own")
	if limit > 0 {
		if err := unix.Mount("skein", own, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=755,size=%d", limit)); err != nil {
			return fmt.Errorf("mount the container's own %d bytes: %w", limit, err)
		}
	}
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(own, d), 0o755); err != nil {
			return err
		}
	}
	// The root shows the upper folder's mode and owner.
	st, err := os.Stat(image)
	if err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(own, "upper"), st.Mode().Perm()); err != nil {
		return err
	}
	opts := "lowerdir=" + image + ",upperdir=" + own + "/upper,workdir=" + own + "/work"
	if strings.ContainsAny(image+own, ",:\\") {
		return fmt.Errorf("mount overlay: the path %s or %s has a character that overlay options cannot hold", image, own)
	}
	if err := unix.Mount("skein", filepath.Join(dir, "rootfs"), "overlay", unix.MS_NODEV, opts); err != nil {
		return fmt.Errorf("mount overlay on %s (%s): %w", filepath.Join(dir, "rootfs"), opts, err)
	}
	return nil
}

func unmountRoot(dir string) error {
	var errs []error
	for _, d := range []string{"rootfs", "own"} {
		// EINVAL: not mounted.
		if err := unix.Unmount(filepath.Join(dir, d), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", filepath.Join(dir, d), err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, "own")))
	}
	return errors.Join(errs...)
}

// clearProcess removes what belongs to one run of a container: its processes, cgroup, crun's state and
// the root. Network, log and record stay.
func (r *Runtime) clearProcess(name string) error {
	return errors.Join(r.crun.remove(name), unmountRoot(r.dir(name)))
}

// maxOpenFiles is 65,536, or what this machine allows if that is less.
func maxOpenFiles() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return min(l.Max, 65536)
}
