package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/agent/seed"
	"github.com/skein-os/skein/qemu/ethernet"
	"github.com/skein-os/skein/qemu/qmp"
	"github.com/skein-os/skein/qemu/san"
)

// OOBPort is the name of the virtio-serial port by which a guest can be spoken to out of band.
const OOBPort = san.ControlPort

// kernelArgs is what every kernel is told. no_timer_check: on a busy host an emulated timer is late, the
// kernel takes it for broken and panics ("IO-APIC + timer doesn't work").
const kernelArgs = "console=ttyS0 quiet cryptomgr.notests panic=-1 no_timer_check"

// cmdline is what the machines' kernels are told.
func (l *Lab) cmdline() string {
	words := kernelArgs
	if l.cfg.SAN != nil {
		words += " " + sanParameter()
	}
	return strings.TrimSpace(words + " " + l.cfg.Append)
}

// process is one run of a machine: a QEMU and all that hangs on it.
type process struct {
	cmd     *exec.Cmd
	qmp     *qmp.Client
	console *net.UnixConn
	oob     *net.UnixConn
	streams [LANs]*ethernet.Stream
	ports   [LANs]*ethernet.Port
	ram     *os.File // the machine's memory
	shared  bool     // ram is written by the machine; false: it has a private copy
	stderr  *lastWords

	migration chan string // states of a running migration
	exited    chan struct{}
	status    error // why it ended; set before exited is closed
	wg        sync.WaitGroup
}

// image is what a machine is started from when it is restored.
type image struct {
	state *os.File // QEMU's device state
	ram   *os.File // memory, nil: it is in state
}

// arguments is QEMU's command line. It must be the same for a save and its restore but for what
// incoming changes.
func (l *Lab) arguments(m *Machine, fd map[string]int, shared, incoming bool) []string {
	onOff := map[bool]string{true: "on", false: "off"}
	fdPath := func(name string) string { return fmt.Sprintf("/proc/self/fd/%d", fd[name]) }
	args := []string{
		"-name", "skein-lab-" + m.node.Name,
		"-accel", string(l.accel.Kind), "-M", "q35,memory-backend=ram", "-cpu", l.accel.CPU(),
		"-m", strconv.Itoa(m.memoryMB()), "-smp", "1",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%dM,mem-path=%s,share=%s", m.memoryMB(), fdPath("ram"), onOff[shared]),
		// The same at every power-on: it tells a machine that comes back from another one of its name.
		"-uuid", fmt.Sprintf("5ce10000-0000-4000-8000-%012d", m.node.Number),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fd["qmp"]), "-mon", "chardev=qmp,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fd["console"]), "-serial", "chardev:console",
	}
	for lan := range LANs {
		// romfile= empty: a saved machine with an option ROM does not load. The slots pin eth0 and eth1.
		rom := ",romfile="
		if l.boot != nil && m.san == nil {
			rom = l.boot.card(lan)
		}
		args = append(args,
			"-netdev", fmt.Sprintf("stream,id=net%d,addr.type=fd,addr.str=%d", lan, fd[fmt.Sprintf("net%d", lan)]),
			"-device", fmt.Sprintf("virtio-net-pci,id=eth%d,netdev=net%d,mac=%s%s,rx_queue_size=1024,addr=0x%x",
				lan, lan, macText(MACOf(lan, m.node.Number)), rom, 0x10+lan))
	}
	args = append(args,
		"-device", "virtio-serial-pci,id=serial", "-chardev", fmt.Sprintf("socket,id=oob,fd=%d", fd["oob"]),
		"-device", "virtserialport,bus=serial.0,chardev=oob,name="+OOBPort,
		"-device", "virtio-rng-pci",
		"-device", "i6300esb", "-action", "watchdog=reset",
	)
	switch {
	case m.san != nil:
		args = append(args, "-kernel", l.cfg.Kernel, "-initrd", m.san.Initrd, "-append", sanCmdline())
		args = append(args, m.san.disks(l.cfg.Dir)...)
	case l.boot != nil:
		args = append(args, l.boot.firmware()...)
	default:
		args = append(args, "-kernel", l.cfg.Kernel, "-initrd", l.cfg.Initrd, "-append", strings.TrimSpace(l.cmdline()+" "+m.node.Append))
	}
	if len(m.node.Seed) > 0 {
		args = append(args, "-fw_cfg", "name="+seed.FwCfgName+",file="+fdPath("seed"))
	}
	if incoming {
		args = append(args, "-incoming", "defer")
	}
	return args
}

// launch starts QEMU for a machine. With from it waits for the saved state to be loaded, and the
// machine stands still afterwards.
func (l *Lab) launch(ctx context.Context, m *Machine, from *image) (_ *process, err error) {
	p := &process{migration: make(chan string, 16), exited: make(chan struct{}), stderr: &lastWords{}, shared: from == nil}
	var child []*os.File // what QEMU gets, from descriptor 3 on
	fd := map[string]int{}
	give := func(name string, f *os.File) {
		fd[name] = 3 + len(child)
		child = append(child, f)
	}
	var ours []*net.UnixConn
	closeChild := func() {
		for _, f := range child {
			if f != p.ram {
				f.Close()
			}
		}
		child = nil
	}
	defer func() {
		closeChild()
		if err != nil && p.cmd == nil {
			for _, c := range ours {
				c.Close()
			}
			if p.ram != nil {
				p.ram.Close()
			}
		}
	}()
	connect := func(name string) (*net.UnixConn, error) {
		conn, theirs, err := socketPair(name)
		if err != nil {
			return nil, err
		}
		give(name, theirs)
		ours = append(ours, conn)
		return conn, nil
	}
	monitor, err := connect("qmp")
	if err != nil {
		return nil, err
	}
	if p.console, err = connect("console"); err != nil {
		return nil, err
	}
	if p.oob, err = connect("oob"); err != nil {
		return nil, err
	}
	for lan := range LANs {
		conn, err := connect(fmt.Sprintf("net%d", lan))
		if err != nil {
			return nil, err
		}
		p.streams[lan] = ethernet.NewStream(conn)
	}
	// Memory without a name in any file system: it is gone with the last process that holds it.
	if from != nil && from.ram != nil {
		p.ram = from.ram
	} else if p.ram, err = memoryFile("skein-ram", nil, int64(m.memoryMB())<<20); err != nil {
		return nil, err
	}
	give("ram", p.ram)
	if len(m.node.Seed) > 0 {
		f, err := memoryFile("skein-seed", m.node.Seed, 0)
		if err != nil {
			return nil, err
		}
		give("seed", f)
	}

	cmd := exec.Command(l.cfg.QEMU, l.arguments(m, fd, p.shared, from != nil)...)
	cmd.ExtraFiles = child
	cmd.Stdout, cmd.Stderr = p.stderr, p.stderr
	cmd.WaitDelay = time.Second
	err = l.spawner.start(cmd)
	closeChild() // while we hold them, QEMU's end of a connection would not be noticed
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", l.cfg.QEMU, err)
	}
	p.cmd = cmd
	p.qmp = qmp.New(monitor, func(e qmp.Event) { m.onQMP(p, e) })
	for lan := range LANs {
		p.ports[lan] = l.switches[lan].Attach(m.node.Name, p.streams[lan])
		p.wg.Go(func() {
			if err := p.streams[lan].ReadFrames(p.ports[lan].Receive); err != nil && !errors.Is(err, unix.ECONNRESET) {
				l.cfg.Log.Debug("network of a machine ended", "node", m.node.Name, "lan", lan, "err", err)
			}
		})
	}
	p.wg.Go(func() { m.console.record(p.console, func() { m.firstByte(p) }) })
	go l.reap(m, p)

	if err := p.qmp.Start(ctx); err != nil {
		p.kill()
		return nil, fmt.Errorf("start machine %s: %w", m.node.Name, p.explain(err))
	}
	if from != nil {
		if err := p.load(ctx, from); err != nil {
			p.kill()
			return nil, fmt.Errorf("restore machine %s: %w", m.node.Name, p.explain(err))
		}
	}
	return p, nil
}

// reap waits for QEMU to end and takes apart what hung on it.
func (l *Lab) reap(m *Machine, p *process) {
	err := p.cmd.Wait()
	p.qmp.Close()
	for lan := range LANs {
		p.streams[lan].Close()
		p.ports[lan].Detach()
	}
	p.wg.Wait() // the console is read to its end
	p.console.Close()
	p.oob.Close()
	p.ram.Close()
	p.status = err
	m.exited(p)
	close(p.exited)
}

// kill ends QEMU as a power cut does and waits until nothing of it is left.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// explain adds QEMU's own last words to an error: they usually are the reason.
func (p *process) explain(err error) error {
	if w := p.stderr.String(); w != "" {
		return fmt.Errorf("%w; QEMU says: %s", err, w)
	}
	return err
}

// socketPair makes a connection whose other end is a file for a child.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return conn.(*net.UnixConn), far, nil
}

// memoryFile makes an unnamed file in memory with the given content or size.
func memoryFile(name string, data []byte, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if size > 0 {
		err = f.Truncate(size)
	} else {
		_, err = f.Write(data)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("fill a file in memory: %w", err)
	}
	return f, nil
}

// lastWords keeps the end of what QEMU prints.
type lastWords struct {
	mu  sync.Mutex
	buf []byte
}

const lastWordsBytes = 4096

func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf, b...)
	if n := len(w.buf) - lastWordsBytes; n > 0 {
		w.buf = append(w.buf[:0], w.buf[n:]...)
	}
	return len(b), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(bytes.TrimSpace(w.buf))
}
