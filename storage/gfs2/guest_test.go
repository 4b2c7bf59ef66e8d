package gfs2

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/storage/shared"
)

// inGuest skips a test that needs a kernel of its own.
func inGuest(t *testing.T) {
	if os.Getenv("SKEIN_BOX") != "/test/box" {
		t.Skip("needs a kernel of its own: runs in the guest of tests/guest")
	}
}

// loopDevice makes a block device of a file of that many bytes.
func loopDevice(t *testing.T, size int64) (device string, grow func(int64)) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	control, err := os.Open("/dev/loop-control")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		t.Fatal(err)
	}
	device = fmt.Sprintf("/dev/loop%d", n)
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0)
		loop.Close()
	})
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	return device, func(size int64) {
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// alone is the ledger and the coordinator of a single node.
type alone struct {
	reports chan shared.Report
}

func (a *alone) run(ctx context.Context, k *shared.Controller) {
	var cur shared.Membership
	for {
		select {
		case r := <-a.reports:
			if next, _, ok := shared.Plan(cur, []shared.Report{r}, 2, func(shared.Member) bool { return false }); ok {
				cur = next
				k.Committed(cur)
			}
		case <-ctx.Done():
			return
		}
	}
}

// node is a driver and a controller of one file system, whose membership comes from elsewhere.
type guestNode struct {
	driver *Driver
	k      *shared.Controller
	events chan shared.Event
	saved  shared.Saved
}

func startNode(t *testing.T, self shared.Member, name, dir string, saved *shared.Saved, publish func(shared.Report)) *guestNode {
	t.Helper()
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	n := &guestNode{driver: New(Config{Cluster: "skein", Dir: dir, Log: log}), events: make(chan shared.Event, 100)}
	n.k = shared.NewController(shared.Config{
		Driver: n.driver, Name: name, Self: self, Publish: publish, Log: log, Saved: saved,
		Save: func(s shared.Saved) error { n.saved = s; return nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	if err := n.driver.Open(self, func(e shared.Event) {
		if e.Name == name || e.Name == "" {
			n.k.Event(e)
			n.events <- e
		}
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); n.k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := n.driver.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *guestNode) wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after 2 minutes; state %s, waits for %q", what, n.k.State(), n.k.Waiting())
		}
	}
}

func loopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Fatal(err)
	}
}

// TestGuestAlone: one node makes, mounts, fills, grows, leaves and checks a file system whose lock manager this
// package drives.
func TestGuestAlone(t *testing.T) {
	inGuest(t)
	loopback(t)
	device, grow := loopDevice(t, 400<<20)
	self := shared.Member{Node: "n1", ID: 1, Incarnation: 7, Address: netip.MustParseAddr("127.0.0.1")}
	ledger := &alone{reports: make(chan shared.Report, 100)}
	n := startNode(t, self, "data", "/run/skein/shared", nil, func(r shared.Report) { ledger.reports <- r })
	go ledger.run(t.Context(), n.k)
	ctx := t.Context()

	if err := n.driver.Make(ctx, device, "data", 2); err != nil {
		t.Fatal(err)
	}
	const dir = "/shared"
	if err := n.driver.Mount(ctx, device, "other", dir); err == nil || !strings.Contains(err.Error(), "another cluster or is another file system") {
		t.Fatalf("mount under another name: got %v", err)
	}
	if err := n.k.Mount(ctx, device, dir); err != nil {
		t.Fatal(err)
	}
	if got := n.k.State(); got != shared.In {
		t.Fatalf("state %s, want %s", got, shared.In)
	}
	s, err := n.driver.Status("data")
	if want := (shared.Status{Lock: true, Mounted: true, Dir: dir}); err != nil || s != want {
		t.Fatalf("status: got %+v, %v, want %+v", s, err, want)
	}
	want := bytes.Repeat([]byte("skein "), 100_000)
	for i := range 20 {
		if err := os.WriteFile(fmt.Sprintf("%s/file%d", dir, i), want, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	locks(t, filepath.Join(dir, "file0"))

	// The device grows, then the file system.
	grow(600 << 20)
	if err := n.driver.Grow(ctx, dir); err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || int64(st.Blocks)*st.Bsize < 450<<20 {
		t.Errorf("after growing to 600 MiB: %d bytes, %v", int64(st.Blocks)*st.Bsize, err)
	}
	if err := n.driver.AddJournals(ctx, dir, 1); err != nil {
		t.Fatal(err)
	}

	if err := n.k.Unmount(ctx, dir); err != nil {
		t.Fatal(err)
	}
	n.wait(t, "left", func() bool { return n.k.State() == shared.Out })
	if found, text, err := n.driver.Check(ctx, device, false); err != nil || found != shared.Clean {
		t.Errorf("check: got %q, %v, want %q\n%s", found, err, shared.Clean, text)
	}
	// Again: nothing of the first time is in the way.
	if err := n.k.Mount(ctx, device, dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dir + "/file19")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back %d bytes, %v, want %d", len(got), err, len(want))
	}
	if err := n.k.Unmount(ctx, dir); err != nil {
		t.Fatal(err)
	}
	n.wait(t, "left", func() bool { return n.k.State() == shared.Out })
}

// locks: flock works, and an fcntl lock is refused at once.
func locks(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Errorf("flock: %v", err)
	}
	for _, cmd := range []int{unix.F_SETLK, unix.F_SETLKW, unix.F_GETLK} {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		if err := unix.FcntlFlock(f.Fd(), cmd, &lock); err != unix.ENOLCK {
			t.Errorf("fcntl lock, command %d: got %v, want %v", cmd, err, unix.ENOLCK)
		}
	}
}
