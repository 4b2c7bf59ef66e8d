package gfs2

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
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
	next    chan *shared.Controller // after a restart of the agent
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
		case k = <-a.next:
			k.Committed(cur)
		case <-ctx.Done():
			return
		}
	}
}

// guestNode is a driver and a controller of one file system, whose membership comes from elsewhere.
type guestNode struct {
	driver *Driver
	k      *shared.Controller
	saved  shared.Saved
}

func begin(t *testing.T, log *slog.Logger, self shared.Member, name string, saved *shared.Saved, publish func(shared.Report), event func(shared.Event)) (n *guestNode, end func()) {
	t.Helper()
	n = &guestNode{driver: New(Config{Cluster: "skein", Dir: "/run/skein/shared", Log: log})}
	n.k = shared.NewController(shared.Config{
		Driver: n.driver, Name: name, Self: self, Publish: publish, Log: log, Saved: saved,
		Save: func(s shared.Saved) error { n.saved = s; return nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	if err := n.driver.Open(self, func(e shared.Event) {
		if e.Name == name || e.Name == "" {
			n.k.Event(e)
			event(e)
		}
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); n.k.Run(ctx) }()
	return n, func() {
		cancel()
		<-done
		if err := n.driver.Close(); err != nil {
			t.Error(err)
		}
	}
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
	ledger := &alone{reports: make(chan shared.Report, 100), next: make(chan *shared.Controller)}
	n, end := begin(t, slog.New(slog.NewTextHandler(os.Stdout, nil)), self, "data", nil, func(r shared.Report) { ledger.reports <- r }, func(shared.Event) {})
	defer func() { end() }()
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

	// The agent ends, and with it all locking; the next one takes over what is mounted.
	end()
	saved := n.saved
	n, end = begin(t, slog.New(slog.NewTextHandler(os.Stdout, nil)), self, "data", &saved, func(r shared.Report) { ledger.reports <- r }, func(shared.Event) {})
	ledger.next <- n.k
	if err := os.WriteFile(dir+"/after", want, 0o600); err != nil {
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

// machineOrder is what the host's side of TestGuestMachine tells a machine, and machineWord what that says: a JSON
// object a line, on the second serial port. tests/guest has the other side.
type machineOrder struct {
	Membership *shared.Membership `json:"membership,omitempty"`
	Report     *shared.Report     `json:"report,omitempty"` // of another machine
	Do         string             `json:"do,omitempty"`
	ID         int                `json:"id,omitempty"` // of what is to be done
}

type machineWord struct {
	Report  *shared.Report `json:"report,omitempty"`
	Event   *shared.Event  `json:"event,omitempty"`
	Written int            `json:"written,omitempty"` // records of this machine that are on the disk
	Done    int            `json:"done,omitempty"`    // the ID
	Result  string         `json:"result,omitempty"`
	Err     string         `json:"err,omitempty"`
}

// guestMachine is one of several machines that use a disk together.
type guestMachine struct {
	t    *testing.T
	self shared.Member
	node *guestNode
	end  func() // of node

	mu   sync.Mutex
	out  *os.File
	hold *os.File

	writing sync.WaitGroup
	enough  context.CancelFunc
	longest atomic.Int64 // time that a record took, ns, since that was last asked
}

const (
	sharedDisk0 = "/dev/vda"
	sharedDir   = "/shared"
	sharedName  = "data"
)

// TestGuestMachine is one machine of TestGFS2Machines in tests/guest, which says what is to be done.
func TestGuestMachine(t *testing.T) {
	inGuest(t)
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	m := &guestMachine{t: t}
	for _, w := range strings.Fields(string(cmdline)) {
		if v, ok := strings.CutPrefix(w, "test.member="); ok {
			if _, err := fmt.Sscanf(v, "%d/%d", &m.self.ID, &m.self.Incarnation); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.self.Node = fmt.Sprintf("n%d", m.self.ID)
	m.self.Address = netip.AddrFrom4([4]byte{10, 9, 0, byte(m.self.ID)})
	if err := unix.Klogset(unix.SYSLOG_ACTION_CONSOLE_LEVEL, 7); err != nil {
		t.Fatal(err) // the log of the replay
	}
	loopback(t)
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(m.self.Address.String() + "/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
	m.out, err = os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	raw := unix.Termios{Cflag: unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200}
	raw.Cc[unix.VMIN] = 1
	if err := unix.IoctlSetTermios(int(m.out.Fd()), unix.TCSETS, &raw); err != nil {
		t.Fatal(err)
	}
	m.start(nil)
	m.say(machineWord{Result: "hello"})
	lines := bufio.NewScanner(m.out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var o machineOrder
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		switch {
		case o.Membership != nil:
			m.node.k.Committed(*o.Membership)
		case o.Report != nil:
			m.node.k.Reported(*o.Report)
		case o.Do == "restart agent": // before anything else that comes
			m.end()
			saved := m.node.saved
			m.start(&saved)
			m.say(machineWord{Result: "hello"}) // to be told everything again
			m.say(machineWord{Done: o.ID})
		case o.Do == "end":
			m.end()
			return
		default:
			go func() {
				w := machineWord{Done: o.ID}
				result, err := m.do(o.Do)
				if w.Result = result; err != nil {
					w.Err = err.Error()
				}
				m.say(w)
			}()
		}
	}
	t.Fatal(lines.Err())
}

func (m *guestMachine) say(w machineWord) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, err := json.Marshal(w)
	if err == nil {
		_, err = m.out.Write(append(b, '\n'))
	}
	if err != nil {
		panic(err)
	}
}

// start starts what an agent is of this.
func (m *guestMachine) start(saved *shared.Saved) {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	m.node, m.end = begin(m.t, log, m.self, sharedName, saved, func(r shared.Report) { m.say(machineWord{Report: &r}) }, func(e shared.Event) {
		m.say(machineWord{Event: &e})
	})
}

func (m *guestMachine) do(what string) (string, error) {
	ctx := context.Background()
	verb, arg, _ := strings.Cut(what, " ")
	switch verb {
	case "make":
		return "", m.node.driver.Make(ctx, sharedDisk0, sharedName, 3)
	case "mount":
		return "", m.node.k.Mount(ctx, sharedDisk0, sharedDir)
	case "unmount":
		if err := m.node.k.Unmount(ctx, sharedDir); err != nil {
			return "", err
		}
		for m.node.k.State() != shared.Out {
			time.Sleep(20 * time.Millisecond)
		}
		return "", nil
	case "status":
		s, err := m.node.driver.Status(sharedName)
		return fmt.Sprintf("%+v %s", s, m.node.k.Waiting()), err
	case "write":
		var ctx context.Context
		ctx, m.enough = context.WithCancel(context.Background())
		m.writing.Go(func() { m.write(ctx) })
		return "", nil
	case "enough":
		m.enough()
		m.writing.Wait()
		return "", nil
	case "longest":
		return time.Duration(m.longest.Swap(0)).Round(time.Millisecond).String(), nil
	case "read": // how many records another machine has left
		data, err := os.ReadFile(sharedDir + "/" + arg)
		if err != nil {
			return "", err
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			if line != record(arg, n) {
				return "", fmt.Errorf("%s: record %d is %q", arg, n, line)
			}
			n++
		}
		return strconv.Itoa(n), nil
	case "lock": // now or not at all
		f, err := os.OpenFile(sharedDir+"/lock", os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return "", err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return "held", nil
			}
			return "", err
		}
		m.hold = f
		return "", nil
	case "unlock":
		return "", m.hold.Close()
	case "check", "repair":
		found, text, err := m.node.driver.Check(ctx, sharedDisk0, verb == "repair")
		if found != shared.Clean {
			fmt.Println(text)
		}
		return string(found), err
	}
	return "", fmt.Errorf("no order %q", what)
}

func record(file string, n int) string { return fmt.Sprintf("%s %08d\n", file, n) }

// write appends records to this machine's file and makes small files in a folder that all use, and says what is on
// the disk for sure.
func (m *guestMachine) write(ctx context.Context) {
	name := m.self.Node
	f, err := os.OpenFile(sharedDir+"/"+name, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		m.say(machineWord{Err: err.Error()})
		return
	}
	defer f.Close()
	info, err := f.Stat()
	n := 0
	if err == nil {
		n = int(info.Size()) / len(record(name, 0))
		err = os.MkdirAll(sharedDir+"/all", 0o700)
	}
	for err == nil && ctx.Err() == nil {
		began := time.Now()
		_, err = f.WriteString(record(name, n))
		if err == nil {
			err = f.Sync()
		}
		if n%5 == 0 && err == nil {
			small := fmt.Sprintf("%s/all/%s-%d", sharedDir, name, n%50)
			err = errors.Join(os.WriteFile(small, []byte(small), 0o600), os.Rename(small, small+"x"))
		}
		m.longest.Store(max(m.longest.Load(), int64(time.Since(began))))
		n++
		if err == nil {
			m.say(machineWord{Written: n})
		}
		time.Sleep(10 * time.Millisecond) // a writer, not a flood: the emulators share two processors
	}
	if err != nil {
		m.say(machineWord{Err: err.Error()})
	}
}

// TestGuestWithdraw: a file system that gives up on its node is told, and the node reports that it is of no use.
func TestGuestWithdraw(t *testing.T) {
	inGuest(t)
	loopback(t)
	device, _ := loopDevice(t, 200<<20)
	self := shared.Member{Node: "n1", ID: 1, Incarnation: 7, Address: netip.MustParseAddr("127.0.0.1")}
	ledger := &alone{reports: make(chan shared.Report, 100), next: make(chan *shared.Controller)}
	events := make(chan shared.Event, 100)
	n, _ := begin(t, slog.New(slog.NewTextHandler(os.Stdout, nil)), self, "data", nil, func(r shared.Report) { ledger.reports <- r }, func(e shared.Event) { events <- e })
	go ledger.run(t.Context(), n.k)
	if err := n.driver.Make(t.Context(), device, "data", 1); err != nil {
		t.Fatal(err)
	}
	if err := n.k.Mount(t.Context(), device, "/shared"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/shared/file", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() { // may sleep in the kernel for ever
		_ = os.WriteFile("/sys/fs/gfs2/skein:data/withdraw", []byte("1"), 0)
	}()
	for deadline := time.After(time.Minute); ; {
		select {
		case e := <-events:
			if e.Kind != shared.EventWithdrawn {
				continue
			}
		case <-deadline:
			t.Fatal("no event of the withdrawal in a minute")
		}
		break
	}
	if got, want := n.k.Waiting(), "a reset of this node: the file system met an error on this node and withdrew"; got != want {
		t.Errorf("waits for %q, want %q", got, want)
	}
	s, err := n.driver.Status("data")
	if err != nil || !s.Withdrawn {
		t.Errorf("status: got %+v, %v, want Withdrawn", s, err)
	}
	if err := os.WriteFile("/shared/file2", []byte("x"), 0o600); err == nil {
		t.Error("a write after the withdrawal: no error")
	}
	// Whoever met the error sleeps in the kernel for ever, here a thread of this program, which therefore cannot end.
	// A node is reset; so is this guest.
	if !t.Failed() {
		fmt.Println("TestGuestWithdraw passed")
		fmt.Println("SKEIN-GUEST exit 0")
	}
	t.Log(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}
