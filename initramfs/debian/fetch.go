package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Archive fetches and unpacks packages.
type Archive struct {
	// Dir is the cache folder; it is made if need be and may be deleted at any time between runs.
	Dir string
	// Pins tell which versions are wanted.
	Pins Pins
	// Log gets progress and replacements, a line each.
	Log io.Writer

	apt *apt
	got map[string]Package // what this run has already fetched, by wanted name
}

// Package is an unpacked package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	// Replaces is the pinned "name version" that has left the archive, "" if this is the pinned one.
	Replaces string `json:"replaces,omitempty"`
	// Root is where its files are.
	Root string `json:"-"`
}

// Fetch returns the pinned package of that name, downloaded, checked and unpacked.
func (a *Archive) Fetch(ctx context.Context, name string) (Package, error) {
	if p, ok := a.got[name]; ok {
		return p, nil
	}
	pin, ok := a.Pins[name]
	if !ok {
		return Package{}, fmt.Errorf("package %s is not pinned: add it to initramfs/debian/pins.json", name)
	}
	if a.apt == nil {
		apt, err := newApt(filepath.Join(a.Dir, "apt"), a.Log)
		if err != nil {
			return Package{}, fmt.Errorf("prepare the cache folder %s: %w", a.Dir, err)
		}
		a.apt, a.got = apt, map[string]Package{}
	}
	unlock, err := a.lock()
	if err != nil {
		return Package{}, err
	}
	defer unlock()
	p, err := a.fetch(ctx, name, pin)
	if err != nil {
		return Package{}, fmt.Errorf("package %s %s: %w", name, pin.Version, err)
	}
	if p.Replaces != "" {
		fmt.Fprintf(a.Log, "package %s %s has left the archive; using %s %s instead (update pins.json; sha256 %s)\n", name, pin.Version, p.Name, p.Version, p.SHA256)
	}
	a.got[name] = p
	return p, nil
}

// lock lets one build at a time change the cache folder: several may run at once, as in tests, and apt
// refuses to share its state. The kernel drops the lock if this process dies.
func (a *Archive) lock() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(a.apt.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = Step(a.Log, "waiting for another build that uses "+a.Dir, func() error { return flock(f) })
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the cache folder %s: %w", a.Dir, err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (a *Archive) fetch(ctx context.Context, name string, pin Pin) (Package, error) {
	p := Package{Name: name, Version: pin.Version, SHA256: pin.SHA256}
	if a.unpacked(&p) {
		return p, nil
	}
	deb := a.debPath(p)
	if sum, err := fileSum(deb); err == nil && sum == pin.SHA256 {
		return p, a.unpack(&p, deb)
	}
	if r, ok := a.replacement(name, pin); ok && a.unpacked(&r) {
		return r, nil
	}
	var missing, index error
	for _, force := range []bool{false, true} {
		// A source of the machine's that cannot be read need not be one that matters here: go on.
		index = a.apt.update(ctx, force)
		var got string
		err := Step(a.Log, "downloading "+name, func() (err error) {
			got, err = a.apt.download(ctx, name, pin.Version)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return p, err
			}
			missing = err // not in the index, or the index is older than the archive
			continue
		}
		sum, err := a.store(got, p)
		if err != nil {
			return p, err
		}
		if sum != pin.SHA256 {
			os.Remove(deb)
			return p, fmt.Errorf("has SHA-256 %s, pinned is %s: the archive's package is not the one that was pinned; look into it before you change pins.json", sum, pin.SHA256)
		}
		return p, a.unpack(&p, deb)
	}
	if index != nil {
		// Without a fresh index the pin may well be there, and what looks current may be older than the pin.
		return p, errors.Join(missing, index)
	}
	return a.replace(ctx, name, pin)
}

// replace fetches what the archive has now in place of a pin that has left it.
func (a *Archive) replace(ctx context.Context, name string, pin Pin) (Package, error) {
	p := Package{Name: name, Replaces: name + " " + pin.Version}
	version, err := a.apt.current(ctx, name)
	if err != nil {
		return p, err
	}
	if version == "" && pin.Follow != "" {
		if p.Name, err = a.apt.successor(ctx, name, pin.Follow); err != nil {
			return p, err
		}
		if version, err = a.apt.current(ctx, p.Name); err != nil {
			return p, err
		}
	}
	if version == "" {
		return p, errors.New("neither this version nor another is in the archive that this machine's apt is set up for")
	}
	p.Version = version
	got, err := a.apt.download(ctx, p.Name, version)
	if err != nil {
		return p, err
	}
	if p.SHA256, err = a.store(got, p); err != nil {
		return p, err
	}
	if err := a.unpack(&p, a.debPath(p)); err != nil {
		return p, err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	return p, os.WriteFile(a.replacementPath(name, pin), data, 0o644)
}

// replacement is what replace found within the last day, so that a build with an outdated pin works
// without the network too and asks the archive at most once a day.
func (a *Archive) replacement(name string, pin Pin) (Package, bool) {
	path := a.replacementPath(name, pin)
	st, err := os.Stat(path)
	if err != nil || time.Since(st.ModTime()) > indexAge {
		return Package{}, false
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Package{}, false
	}
	var p Package
	ok := json.Unmarshal(data, &p) == nil && validName(p.Name) && validVersion(p.Version) && len(p.SHA256) == 64
	return p, ok
}

func (a *Archive) replacementPath(name string, pin Pin) string {
	return filepath.Join(a.apt.dir, "archives", name+"_"+pin.Version+".replaced.json")
}

func (a *Archive) debPath(p Package) string {
	return filepath.Join(a.apt.dir, "archives", p.Name+"_"+p.Version+".deb")
}

// store moves a download to its place and returns its sum.
func (a *Archive) store(got string, p Package) (string, error) {
	defer os.RemoveAll(filepath.Dir(got))
	sum, err := fileSum(got)
	if err != nil {
		return "", err
	}
	return sum, os.Rename(got, a.debPath(p))
}

func (a *Archive) unpackedPath(p Package) string {
	return filepath.Join(a.Dir, "unpacked", p.Name+"_"+p.Version)
}

// unpacked tells whether exactly this package is already unpacked: the sum is in the folder's name's
// companion file, so that a changed pin of the same version is not served from an old folder.
func (a *Archive) unpacked(p *Package) bool {
	root := a.unpackedPath(*p)
	sum, err := os.ReadFile(root + ".sha256")
	if err != nil || string(sum) != p.SHA256 {
		return false
	}
	if _, err := os.Stat(root); err != nil {
		return false
	}
	p.Root = root
	return true
}

func (a *Archive) unpack(p *Package, deb string) error {
	root := a.unpackedPath(*p)
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(root), ".unpack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := Step(a.Log, "unpacking "+p.Name, func() error { return Unpack(f, tmp) }); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(root), ignoreMissing(os.Remove(root+".sha256"))); err != nil {
		return err
	}
	if err := os.Rename(tmp, root); err != nil {
		return err
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	p.Root = root
	return os.WriteFile(root+".sha256", []byte(p.SHA256), 0o644)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
