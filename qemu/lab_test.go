package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pierrec/lz4/v4"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/skein-os/skein/qemu/ethernet"
)

// imageEnv names the folder of an image as `make image` builds it: vmlinux and initramfs.cpio.lz4. The
// test guest takes its kernel and modules from there.
const imageEnv = "SKEIN_IMAGE_DIR"

// guestModules in the order in which they are loaded.
var guestModules = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
	"failover", "net_failover", "virtio_net", "qemu_fw_cfg"}

var ready = regexp.MustCompile("guest: ready")

var guestImage = sync.OnceValues(buildGuest)

// buildGuest makes the initramfs of the test guest and returns kernel and initramfs.
func buildGuest() (image [2]string, err error) {
	from := os.Getenv(imageEnv)
	dir, err := os.MkdirTemp("", "skein-guest-")
	if err != nil {
		return image, err
	}
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-o", init, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return image, fmt.Errorf("%w: %s", err, out)
	}
	program, err := os.ReadFile(init)
	if err != nil {
		return image, err
	}
	modules, err := readModules(filepath.Join(from, "initramfs.cpio.lz4"))
	if err != nil {
		return image, err
	}
	records := []cpio.Record{cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("modules", 0o755), cpio.StaticFile("init", string(program), 0o755)}
	var order []string
	for _, name := range guestModules {
		data, ok := modules[name]
		if !ok {
			return image, fmt.Errorf("the image in %s has no module %s", from, name)
		}
		order = append(order, name+".ko")
		records = append(records, cpio.StaticFile("modules/"+name+".ko", data, 0o644))
	}
	records = append(records, cpio.StaticFile("modules/order", strings.Join(order, "\n"), 0o644))
	var archive bytes.Buffer
	w := cpio.Newc.Writer(&archive)
	if err := cpio.WriteRecords(w, records); err != nil {
		return image, err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return image, err
	}
	initrd := filepath.Join(dir, "initramfs.cpio")
	if err := os.WriteFile(initrd, archive.Bytes(), 0o644); err != nil {
		return image, err
	}
	return [2]string{filepath.Join(from, "vmlinux"), initrd}, nil
}

// readModules returns the kernel modules of an archive by name.
func readModules(archive string) (map[string]string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(lz4.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", archive, err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(data)))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", archive, err)
	}
	modules := map[string]string{}
	for _, r := range records {
		name, ok := strings.CutSuffix(filepath.Base(r.Name), ".ko")
		if !ok || r.FileSize == 0 {
			continue
		}
		content, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		if err != nil {
			return nil, err
		}
		modules[strings.ReplaceAll(name, "-", "_")] = string(content)
	}
	return modules, nil
}

func guestConfig(t *testing.T) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines")
	}
	if os.Getenv(imageEnv) == "" {
		t.Skip("needs an image to take the kernel from: set " + imageEnv)
	}
	if _, err := exec.LookPath(DefaultQEMU); err != nil {
		t.Skip("needs " + DefaultQEMU)
	}
	image, err := guestImage()
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: t.TempDir(), Kernel: image[0], Initrd: image[1], MemoryMB: 256}
}

func seeded(names ...string) (nodes []Node) {
	for i, n := range names {
		nodes = append(nodes, Node{Name: n, Number: i + 1, Seed: []byte("seed of " + n)})
	}
	return nodes
}

// show prints what the machines said when a test has failed.
func show(t *testing.T, l *Lab) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, m := range l.list() {
			for _, line := range m.console.tail(40) {
				t.Logf("%s %s", m.node.Name, line)
			}
		}
		for _, e := range l.Events() {
			t.Logf("event: %+v", e)
		}
	})
}

func get(ctx context.Context, t *testing.T, l *Lab, url string) string {
	t.Helper()
	body, err := tryGet(ctx, l, url)
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return body
}

func tryGet(ctx context.Context, l *Lab, url string) (string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: l.Dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return string(body), err
}

func number(ctx context.Context, t *testing.T, l *Lab, url string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(get(ctx, t, l, url), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// within bounds one step that is expected to fail by silence.
func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

func guestContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestLab(t *testing.T) {
	ctx := guestContext(t)
	cfg := guestConfig(t)
	cfg.Nodes = seeded("n1", "n2")
	begin := time.Now()
	l, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	show(t, l)
	if err := l.WaitAddresses(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range cfg.Nodes {
		if _, err := l.WaitConsole(ctx, n.Name, ready); err != nil {
			t.Fatal(err)
		}
		if _, err := l.WaitConsole(ctx, n.Name, regexp.MustCompile("seed of "+n.Name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("two machines with addresses after %s", time.Since(begin))

	step := func(name string, f func(t *testing.T)) {
		if !t.Run(name, f) {
			t.FailNow()
		}
	}
	step("reach", func(t *testing.T) {
		for _, host := range []string{"n1", "n2", "10.77.0.1", "10.77.1.2"} {
			if got := get(ctx, t, l, "http://"+host+"/"); got != "ok" {
				t.Fatalf("%s: got %q", host, got)
			}
		}
		for _, to := range []string{"10.77.0.2:7", "10.77.1.2:7"} {
			t.Logf("round trip to %s: %s", to, get(ctx, t, l, "http://n1/pingpong?to="+to))
		}
	})
	step("silent link", func(t *testing.T) {
		if err := l.SetLink(ctx, "n2", "eth0", false, true); err != nil {
			t.Fatal(err)
		}
		if got := get(ctx, t, l, "http://10.77.1.2/carrier?of=eth0"); got != "1" {
			t.Fatalf("carrier of a silent link: got %s, want 1", got)
		}
		if _, err := tryGet(ctx, l, "http://n1/pingpong?to=10.77.0.2:7"); err == nil {
			t.Fatal("got an answer by a silent link")
		}
		get(ctx, t, l, "http://n1/pingpong?to=10.77.1.2:7")
		get(ctx, t, l, "http://n2/") // by lan1
		if err := l.SetLink(ctx, "n2", "eth0", true, false); err != nil {
			t.Fatal(err)
		}
		get(ctx, t, l, "http://10.77.0.2/")
	})
	step("cable out", func(t *testing.T) {
		if err := l.SetLink(ctx, "n2", "eth1", false, false); err != nil {
			t.Fatal(err)
		}
		for get(ctx, t, l, "http://10.77.0.2/carrier?of=eth1") != "0" {
			time.Sleep(10 * time.Millisecond)
		}
		if got := l.Machines()[1].Links[1].State; got != "down" {
			t.Fatalf("got link state %q, want down", got)
		}
		if err := l.Heal(ctx); err != nil {
			t.Fatal(err)
		}
		for get(ctx, t, l, "http://10.77.0.2/carrier?of=eth1") != "1" {
			time.Sleep(10 * time.Millisecond)
		}
	})
	step("partition", func(t *testing.T) {
		if err := l.Partition([][]string{{"n1"}, {"n2"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := tryGet(ctx, l, "http://n1/pingpong?to=10.77.0.2:7"); err == nil {
			t.Fatal("got an answer across a partition")
		}
		get(ctx, t, l, "http://n2/") // the host hears all
		if err := l.Heal(ctx); err != nil {
			t.Fatal(err)
		}
		get(ctx, t, l, "http://n1/pingpong?to=10.77.0.2:7")
	})
	step("delay", func(t *testing.T) {
		if err := l.SetFault("n2", "eth0", ethernet.In, ethernet.Fault{Delay: 20 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		got, err := time.ParseDuration(get(ctx, t, l, "http://n1/pingpong?to=10.77.0.2:7"))
		if err != nil || got < 20*time.Millisecond {
			t.Fatalf("round trip: got %v, %v, want at least 20ms", got, err)
		}
		if err := l.Heal(ctx); err != nil {
			t.Fatal(err)
		}
	})
	step("freeze", func(t *testing.T) {
		for _, clock := range []Clock{ClockStanding, ClockRunning} {
			before := number(ctx, t, l, "http://n2/clock")
			if err := l.Freeze(ctx, "n2", clock); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			err := within(ctx, 2*time.Second, func(ctx context.Context) error {
				_, err := tryGet(ctx, l, "http://n2/")
				return err
			})
			if err == nil {
				t.Fatalf("clock %s: got an answer of a frozen machine", clock)
			}
			get(ctx, t, l, "http://n1/") // the other one is not harmed
			if err := l.Reset(ctx, "n2"); err == nil {
				t.Fatal("got no error for the reset of a frozen machine")
			}
			if err := l.Thaw(ctx, "n2"); err != nil {
				t.Fatal(err)
			}
			stood := time.Since(start)
			passed := time.Duration(number(ctx, t, l, "http://n2/clock") - before)
			if ran := passed > stood; ran != (clock == ClockRunning) {
				t.Fatalf("clock %s: frozen for %v, the machine's clock went on by %v", clock, stood, passed)
			}
		}
	})
	step("power", func(t *testing.T) {
		if err := l.PowerOff("n2"); err != nil {
			t.Fatal(err)
		}
		if got := l.Machines()[1].State; got != Off {
			t.Fatalf("got %s, want off", got)
		}
		if err := l.PowerOn(ctx, "n2"); err != nil {
			t.Fatal(err)
		}
		if _, err := l.WaitConsole(ctx, "n2", ready); err != nil {
			t.Fatal(err)
		}
		if err := l.Reset(ctx, "n2"); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitAddresses(ctx, nil); err != nil {
			t.Fatal(err)
		}
		if got := len(l.Alarms()); got != 0 {
			t.Fatalf("got alarms %v, want none", l.Alarms())
		}
	})
	step("panic is an alarm and a reboot", func(t *testing.T) {
		_ = within(ctx, time.Second, func(ctx context.Context) error { _, err := tryGet(ctx, l, "http://n2/panic"); return err })
		seen := errors.New("seen")
		err := l.FollowEvents(ctx, func(e Event) error {
			if e.Node == "n2" && e.Kind == EventReboot {
				return seen
			}
			return nil
		})
		if !errors.Is(err, seen) {
			t.Fatalf("got %v, want a reboot after the panic", err)
		}
		if a := l.Alarms()[0]; a.Node != "n2" {
			t.Fatalf("got %v, want an alarm of n2", a)
		}
	})
	step("power-off by itself", func(t *testing.T) {
		if _, err := l.WaitConsole(ctx, "n2", ready); err != nil {
			t.Fatal(err)
		}
		if err := l.WaitAddresses(ctx, nil); err != nil {
			t.Fatal(err)
		}
		_ = within(ctx, 2*time.Second, func(ctx context.Context) error { _, err := tryGet(ctx, l, "http://n2/poweroff"); return err })
		for l.Machines()[1].State != Off {
			time.Sleep(10 * time.Millisecond)
		}
	})
}

func TestSaveAndRestore(t *testing.T) {
	ctx := guestContext(t)
	cfg := guestConfig(t)
	cfg.Nodes = seeded("n1", "n2")
	save := filepath.Join(t.TempDir(), "save")
	first, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	show(t, first)
	if err := first.WaitAddresses(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range cfg.Nodes {
		if _, err := first.WaitConsole(ctx, n.Name, ready); err != nil {
			t.Fatal(err)
		}
	}
	get(ctx, t, first, "http://n1/hold?to=10.77.0.2:7")
	// A lab that was restored can be saved too, by another way: see savedNode.RAMFile.
	lab := first
	for round := range 2 {
		dir := fmt.Sprintf("%s%d", save, round)
		begin := time.Now()
		if err := lab.Save(ctx, dir); err != nil {
			t.Fatal(err)
		}
		saving := time.Since(begin)
		count := number(ctx, t, lab, "http://n1/count")
		if count < 0 {
			t.Fatal("the held connection ended by the save")
		}
		lab.Close()
		cfg := Config{Dir: t.TempDir()}
		begin = time.Now()
		lab, err = Restore(ctx, cfg, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer lab.Close()
		show(t, lab)
		restoring := time.Since(begin)
		after := number(ctx, t, lab, "http://n1/count")
		answered := time.Since(begin)
		for more := int64(0); more <= after; {
			if more = number(ctx, t, lab, "http://n1/count"); more < 0 {
				t.Fatal("the connection between the machines did not survive the restore")
			}
		}
		t.Logf("round %d: saved in %s, restored in %s, answered after %s", round, saving, restoring, answered)
	}
}

func TestRelaunchesASilentMachineOnce(t *testing.T) {
	ctx := guestContext(t)
	cfg := guestConfig(t)
	cfg.Nodes = seeded("n1")
	cfg.silentLimit = time.Millisecond // nothing prints that soon
	l, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	show(t, l)
	if err := l.WaitAddresses(ctx, nil); err != nil {
		t.Fatal(err)
	}
	for l.Machines()[0].Relaunches == 0 || l.Machines()[0].State != Running {
		time.Sleep(10 * time.Millisecond)
	}
	if err := l.WaitAddresses(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if got := l.Machines()[0].Relaunches; got != 1 {
		t.Fatalf("got %d relaunches, want 1", got)
	}
}

func TestBoot(t *testing.T) {
	ctx := guestContext(t)
	cfg := guestConfig(t)
	took, err := Boot(ctx, cfg, 3, ready)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("three machines were ready after %v", took)
}

func TestQEMUsOwnReasonIsShown(t *testing.T) {
	if _, err := exec.LookPath(DefaultQEMU); err != nil {
		t.Skip("needs " + DefaultQEMU)
	}
	bad := filepath.Join(t.TempDir(), "kernel")
	if err := os.WriteFile(bad, []byte("not a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Config{Dir: t.TempDir(), Kernel: bad, Initrd: bad, Nodes: seeded("n1")})
	if err == nil || !strings.Contains(err.Error(), "QEMU says") {
		t.Fatalf("got %v, want QEMU's own words", err)
	}
}
