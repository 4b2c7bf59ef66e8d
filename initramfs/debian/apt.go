package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// indexAge is how old apt's private index may get before it is fetched again.
const indexAge = 24 * time.Hour

// apt runs the machine's apt-get and apt-cache on private state under dir.
type apt struct {
	dir    string // absolute
	log    io.Writer
	forced bool // the index was fetched in this run because something was missing
}

// aptConf is read after the machine's own configuration, whose sources, keys and proxies stay in force.
// Hooks of the machine are dropped: they work on the machine's own state, some as root.
const aptConf = `#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
APT::Architecture "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "2";
`

func newApt(dir string, log io.Writer) (*apt, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, "\"\n;") {
		return nil, fmt.Errorf("cache folder %q: apt cannot use a path with quotes or semicolons", dir)
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "archives"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "apt.conf"), fmt.Appendf(nil, aptConf, dir), 0o644); err != nil {
		return nil, err
	}
	return &apt{dir: dir, log: log}, nil
}

func (a *apt) run(ctx context.Context, dir, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, append([]string{"--config-file=" + filepath.Join(a.dir, "apt.conf")}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("%s is not there: the image is built from Debian packages, so build on Debian or a relative of it: %w", tool, err)
		}
		return "", fmt.Errorf("%s %s: %w: %s", tool, args[0], err, strings.TrimSpace(errOut.String()))
	}
	return out.String(), nil
}

// update fetches the index if it is missing, a day old, or force is set and this run has not done it yet.
func (a *apt) update(ctx context.Context, force bool) error {
	stamp := filepath.Join(a.dir, "updated")
	if st, err := os.Stat(stamp); err == nil && time.Since(st.ModTime()) < indexAge && (!force || a.forced) {
		return nil
	}
	err := Step(a.log, "fetching Debian's package index", func() error {
		_, err := a.run(ctx, a.dir, "apt-get", "update")
		return err
	})
	if err != nil {
		return err
	}
	a.forced = true
	return os.WriteFile(stamp, nil, 0o644)
}

// download puts name at version, or the current one if version is empty, into a new folder under
// archives/ and returns the .deb's path. apt checks it against the signed index.
func (a *apt) download(ctx context.Context, name, version string) (string, error) {
	dir, err := os.MkdirTemp(filepath.Join(a.dir, "archives"), ".download-")
	if err != nil {
		return "", err
	}
	arg := name
	if version != "" {
		arg += "=" + version
	}
	if _, err := a.run(ctx, dir, "apt-get", "download", arg); err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err == nil && len(debs) != 1 {
		err = fmt.Errorf("apt-get download %s left %d packages, want 1", arg, len(debs))
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return debs[0], nil
}

// current is the version of name that apt would install now, "" if the archive has none.
func (a *apt) current(ctx context.Context, name string) (string, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", "policy", name)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			return v, nil
		}
	}
	return "", nil
}

// successor is the first package that follow depends on and whose name begins as name does, up to the
// first digit: linux-image-6.1.0-57-amd64 for linux-image-6.1.0-56-amd64.
func (a *apt) successor(ctx context.Context, name, follow string) (string, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", "depends", "--important", follow)
	if err != nil {
		return "", err
	}
	prefix := name
	if i := strings.IndexAny(name, "0123456789"); i > 0 {
		prefix = name[:i]
	}
	for line := range strings.Lines(out) {
		_, dep, ok := strings.Cut(strings.TrimSpace(line), "Depends: ")
		if ok && strings.HasPrefix(dep, prefix) && validName(dep) {
			return dep, nil
		}
	}
	return "", fmt.Errorf("%s depends on no %s package", follow, prefix+"*")
}
