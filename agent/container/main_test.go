package container

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNS marks the process that runs in namespaces of its own.
const inNS = "SKEIN_TEST_IN_NAMESPACES"

// TestMain runs the tests of root once more in a network and mount namespace of their own, so that they
// can make bridges and mounts and leave nothing behind, whatever happens. The first process is then to the
// second what PID 1 is to the agent: it reaps the orphans and tells, on descriptor 3, how they ended.
func TestMain(m *testing.M) {
	if os.Getenv(inNS) != "" {
		if lo, err := netlink.LinkByName("lo"); err == nil {
			_ = netlink.LinkSetUp(lo)
		}
	}
	if os.Getuid() != 0 || os.Getenv(inNS) != "" || fuzzing() {
		os.Exit(m.Run())
	}
	code, err := superviseTests()
	if err != nil { // no right to make namespaces: the tests that need them skip themselves
		code = m.Run()
	}
	os.Exit(code)
}

func superviseTests() (int, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNS+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about the thread
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	r.Close()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 1, nil
		}
		code, sig := max(ws.ExitStatus(), 0), 0
		if ws.Signaled() {
			sig = int(ws.Signal())
		}
		if pid == cmd.Process.Pid {
			return code + sig, nil
		}
		fmt.Fprintln(w, pid, code, sig, int64(boottime()))
	}
}

// reaper passes on what the first process tells, and repeats it to a new Runtime.
var reaper struct {
	once sync.Once
	mu   sync.Mutex
	seen [][4]int64
	to   *Runtime
}

func tellExits(r *Runtime) {
	reaper.mu.Lock()
	defer reaper.mu.Unlock()
	for _, e := range reaper.seen {
		r.Exited(int(e[0]), int(e[1]), int(e[2]), time.Duration(e[3]))
	}
	reaper.to = r
	reaper.once.Do(func() {
		go func() {
			in := bufio.NewReader(os.NewFile(3, "exits"))
			for {
				var e [4]int64
				if _, err := fmt.Fscanln(in, &e[0], &e[1], &e[2], &e[3]); err != nil {
					return
				}
				reaper.mu.Lock()
				reaper.seen = append(reaper.seen, e)
				reaper.to.Exited(int(e[0]), int(e[1]), int(e[2]), time.Duration(e[3]))
				reaper.mu.Unlock()
			}
		}()
	})
}

func fuzzing() bool {
	for _, a := range os.Args {
		if strings.HasPrefix(a, "-test.fuzz") {
			return true
		}
	}
	return false
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getenv(inNS) == "" {
		t.Skip("needs root and the right to make namespaces")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Skip("needs the right to mount:", err)
	}
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

var boxProgram []byte

// boxBinary is the test program, built once. In a guest, which has no compiler, SKEIN_BOX names it.
func boxBinary(t testing.TB) []byte {
	t.Helper()
	if boxProgram != nil {
		return boxProgram
	}
	path := os.Getenv("SKEIN_BOX")
	if path == "" {
		path = filepath.Join(t.TempDir(), "box")
		cmd := exec.Command("go", "build", "-o", path, "-ldflags=-s -w", "github.com/skein-os/skein/tests/guest/box")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the test program: %v\n%s", err, out)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	boxProgram = data
	return data
}

type entry struct {
	tar.Header
	data string
}

func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}
func file(name, data string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}, data: data}
}
func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == tar.TypeReg && h.Size == 0 {
			h.Size = int64(len(e.data))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// image is an image of the given layers.
func image(t testing.TB, config v1.Config, layers ...[]byte) v1.Image {
	t.Helper()
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	for _, data := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.Config, file.OS, file.Architecture = config, "linux", runtime.GOARCH
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// ociArchive is the tar of an OCI layout with one image.
func ociArchive(t testing.TB, ref string, img v1.Image) []byte {
	t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{%q:%q}}]}`,
		m.MediaType, digest, len(raw), annotationRefName, ref)
	entries := []entry{
		file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`),
		file("index.json", index),
		dir("blobs/"), dir("blobs/sha256/"),
		file("blobs/sha256/"+digest.Hex, string(raw)),
		file("blobs/sha256/"+m.Config.Digest.Hex, string(config)),
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, file("blobs/sha256/"+m.Layers[i].Digest.Hex, string(data)))
	}
	return tarOf(t, entries...)
}

func boxImage(t testing.TB) v1.Image {
	return image(t, v1.Config{Entrypoint: []string{"/bin/box"}, Cmd: []string{"serve"}, Env: []string{"FROM=image"}, WorkingDir: "/srv"},
		tarOf(t, dir("bin/"), file("bin/box", string(boxBinary(t))), dir("etc/"), dir("srv/"),
			file("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:100:101::/srv:/bin/false\n"),
			file("etc/group", "root:x:0:\nweb:x:101:\nextra:x:200:web\n")))
}

func openImages(t testing.TB, limits Limits) *Images {
	t.Helper()
	s, err := OpenImages(t.TempDir(), limits, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var testSubnet = netip.MustParsePrefix("10.80.7.0/24")

const testBridge = "skein0"

// world is a node as far as containers see one: a bridge, an image store on a tmpfs, crun.
type world struct {
	t       testing.TB
	cfg     Config
	runtime *Runtime
	image   cluster.Image
}

func newWorld(t testing.TB) *world {
	t.Helper()
	needRoot(t)
	crun := os.Getenv("SKEIN_CRUN")
	if crun == "" {
		var err error
		if crun, err = exec.LookPath("crun"); err != nil {
			t.Skip("needs crun (PATH or SKEIN_CRUN)")
		}
	}
	dir := t.TempDir()
	if err := unix.Mount("skein", dir, "tmpfs", 0, "mode=711"); err != nil {
		t.Skip("needs the right to mount a tmpfs:", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = testBridge
	if err := netlink.LinkAdd(br); err != nil {
		t.Skip("needs a bridge:", err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	if err := netlink.AddrAdd(br, &netlink.Addr{IPNet: &net.IPNet{IP: gateway(testSubnet).AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(br); err != nil {
		t.Fatal(err)
	}
	images, err := OpenImages(filepath.Join(dir, "images"), Limits{}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, cfg: Config{Root: filepath.Join(dir, "containers"), Images: images, Crun: crun,
		Bridge: testBridge, Subnet: testSubnet, Log: testLog(t)}}
	// crun wants cgroup v2 or v1, not both. In our mount namespace it sees v2; on a machine that uses v1
	// it has no controllers, so there are no limits to test.
	if _, err := os.Stat(cgroupMount + "/cgroup.controllers"); err != nil {
		if err := unix.Mount("cgroup2", cgroupMount, "cgroup2", 0, ""); err != nil {
			t.Skip("needs cgroup v2:", err)
		}
	}
	if data, err := os.ReadFile(cgroupMount + "/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup v2:", err)
	} else if strings.Contains(string(data), "memory") {
		w.cfg.Cgroup = "/skein.services"
	}
	loaded, err := images.Load(t.Context(), bytes.NewReader(ociArchive(t, "test/box:1", boxImage(t))))
	if err != nil {
		t.Fatal(err)
	}
	w.image = loaded[0]
	if _, err := images.Prepare(t.Context(), w.image.Digest); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(func() {
		for _, c := range w.runtime.List() {
			if err := w.runtime.Remove(context.Background(), c.Instance.ID); err != nil {
				t.Error(err)
			}
		}
		w.runtime.Close()
	})
	return w
}

func (w *world) open() {
	r, err := New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.runtime = r
	tellExits(r)
}

func (w *world) instance(id string, args ...string) cluster.Instance {
	return cluster.Instance{ID: id, Stack: "demo", Service: "box", Slot: 1, Node: "n7", Spec: cluster.Service{
		Stack: "demo", Name: "box", Image: w.image.Ref, ImageDigest: w.image.Digest, Command: args}}
}

func (w *world) start(in cluster.Instance) Running {
	w.t.Helper()
	run, err := w.runtime.Start(w.t.Context(), in, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return run
}

func (w *world) wait(id string) Exit {
	w.t.Helper()
	select {
	case e := <-w.runtime.Wait(id):
		return e
	case <-time.After(time.Minute):
		w.t.Fatalf("container %s has not ended; its log: %q", id, w.logs(id))
		return Exit{}
	}
}

func (w *world) logs(id string) []string {
	w.t.Helper()
	var out []string
	if err := w.runtime.Logs(w.t.Context(), id, false, -1, func(l string) error { out = append(out, l); return nil }); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// awaitLog returns when the container has written the line.
func (w *world) awaitLog(id, line string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	found := errors.New("found")
	err := w.runtime.Logs(ctx, id, true, -1, func(l string) error {
		if l == line {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		w.t.Fatalf("container %s has not written %q but %q (%v)", id, line, w.logs(id), err)
	}
}

func usedBytes(st os.FileInfo) int64 { return st.Sys().(*syscall.Stat_t).Blocks * 512 }
