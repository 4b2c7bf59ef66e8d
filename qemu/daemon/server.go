package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/ethernet"
	"github.com/skein-os/skein/qemu/owners"
	"github.com/skein-os/skein/qemu/proxy"
	"github.com/skein-os/skein/qemu/san"
)

// ErrRunning: there is a daemon for the folder already.
var ErrRunning = errors.New("a lab is up already in this folder")

// Run reads a Config from in, starts the lab and serves it until ctx ends or a client orders the end.
// It reports its progress on out, and closes that when the lab is there.
func Run(ctx context.Context, in io.Reader, out io.WriteCloser, log *slog.Logger) error {
	report := json.NewEncoder(out)
	err := run(ctx, in, func() { _ = report.Encode(message{Done: true}); out.Close() },
		func(what string) { _ = report.Encode(message{Progress: what}) }, log)
	if err != nil {
		_ = report.Encode(message{Error: err.Error()})
		out.Close()
	}
	return err
}

type server struct {
	lab     *qemu.Lab
	proxy   *proxy.Proxy
	cfg     Config
	started time.Time
	log     *slog.Logger
	ended   chan struct{} // a client ordered the end
	closed  chan struct{} // the machines are gone
	once    sync.Once
}

func run(ctx context.Context, in io.Reader, ready func(), progress func(string), log *slog.Logger) error {
	var cfg Config
	if err := json.NewDecoder(in).Decode(&cfg); err != nil {
		return fmt.Errorf("read the lab's configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	lock, err := takeLock(cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()

	labConfig := qemu.Config{Dir: cfg.Dir, Kernel: cfg.Kernel, Initrd: cfg.Initrd, Append: cfg.Append, MemoryMB: cfg.MemoryMB,
		Nodes: cfg.Nodes, Log: log, Seed: cfg.Seed, Netboot: cfg.Netboot, SAN: cfg.SAN, OnEvent: func(e qemu.Event) {
			log.Info("lab", "node", e.Node, "kind", e.Kind, "text", e.Text)
		}}
	var lab *qemu.Lab
	if cfg.From != "" {
		progress("restoring the machines from " + cfg.From)
		lab, err = qemu.Restore(ctx, labConfig, cfg.From)
	} else {
		what := fmt.Sprintf("powering on %d machines", len(cfg.Nodes))
		if cfg.SAN != nil {
			what = fmt.Sprintf("starting the storage array, and then %d machines", len(cfg.Nodes))
		}
		progress(what)
		lab, err = qemu.Start(ctx, labConfig)
	}
	if err != nil {
		return err
	}
	defer lab.Close()
	if c := lab.Accel(); c.Kind == "tcg" {
		progress("machines are emulated (" + c.Reason + ")")
	}

	pl, err := listenProxy(cfg.Proxy)
	if err != nil {
		return err
	}
	p, err := proxy.Serve(pl, func(ctx context.Context, hostPort string) (net.Conn, error) { return lab.Dial(ctx, "tcp", hostPort) }, log)
	if err != nil {
		pl.Close()
		return err
	}
	defer func() { p.Close() }()

	l, err := listenUnix(cfg.Dir)
	if err != nil {
		return err
	}
	s := &server{lab: lab, proxy: p, cfg: cfg, started: time.Now(), log: log, ended: make(chan struct{}), closed: make(chan struct{})}
	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	ready()
	log.Info("lab is up", "proxy", p.Addr().String(), "machines", len(lab.Machines()))
	select {
	case <-ctx.Done():
	case <-s.ended:
	case err = <-served:
	}
	log.Info("lab ends")
	p.Close()   // before the network that it dials into
	lab.Close() // ends followers, too
	close(s.closed)
	end, cancel := context.WithTimeout(context.Background(), time.Second) // for the reply to "down"
	defer cancel()
	_ = srv.Shutdown(end)
	srv.Close()
	os.Remove(socketPath(cfg.Dir))
	return err
}

// takeLock makes this process the only daemon of a folder.
func takeLock(dir string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(dir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lab's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", dir, ErrRunning)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// listenProxy listens where it was told to, or, if that is the default and taken by another lab, on a
// free port.
func listenProxy(addr string) (net.Listener, error) {
	if addr != "" {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen for the proxy: %w", err)
		}
		return l, nil
	}
	if l, err := net.Listen("tcp", DefaultProxy); err == nil {
		return l, nil
	}
	return net.Listen("tcp", "127.0.0.1:0")
}

// listenUnix listens on the folder's socket. Socket paths are limited to 107 bytes, so the folder is
// named by an open descriptor.
func listenUnix(dir string) (net.Listener, error) {
	_ = os.Remove(socketPath(dir)) // left by a daemon that was killed; we hold the lock
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), filepath.Base(socketPath(dir))))
	if err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the name is that of a closed descriptor by then
	return l, os.Chmod(socketPath(dir), 0o600)
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s.state()) })
	mux.HandleFunc("GET /bmcs", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s.lab.BMCs()) })
	mux.HandleFunc("GET /cables", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(s.lab.Cables()) })
	mux.HandleFunc("POST /call", s.call)
	mux.HandleFunc("GET /san", func(w http.ResponseWriter, r *http.Request) {
		st, err := s.lab.OrderSAN(r.Context(), san.Order{Op: san.OpShow})
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		_ = json.NewEncoder(w).Encode(st)
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		s.once.Do(func() { close(s.ended) })
		<-s.closed
	})
	mux.HandleFunc("GET /wait", s.wait)
	mux.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		enc := json.NewEncoder(w)
		emit := func(e qemu.Event) error {
			err := enc.Encode(e)
			_ = http.NewResponseController(w).Flush()
			return err
		}
		if r.FormValue("follow") != "" {
			_ = s.lab.FollowEvents(r.Context(), emit)
			return
		}
		for _, e := range s.lab.Events() {
			_ = emit(e)
		}
	})
	mux.HandleFunc("GET /console", s.console)
	mux.HandleFunc("GET /owners", func(w http.ResponseWriter, r *http.Request) {
		enc := json.NewEncoder(w)
		if r.FormValue("follow") == "" {
			_ = enc.Encode(s.lab.Owners())
			return
		}
		_ = http.NewResponseController(w).Flush()
		_ = s.lab.FollowOwners(r.Context(), func(rec owners.Record) error {
			err := enc.Encode(rec)
			_ = http.NewResponseController(w).Flush()
			return err
		})
	})
	mux.HandleFunc("GET /writers", s.writers)
	return mux
}

func (s *server) state() State {
	addr := s.proxy.Addr().String()
	return State{Proxy: "http://" + addr, SOCKS: "socks5h://" + addr, Machines: s.lab.Machines(), SAN: s.lab.SAN(), Accel: s.lab.Accel(),
		Dir: s.cfg.Dir, PID: os.Getpid(), Started: s.started}
}

func (s *server) wait(w http.ResponseWriter, r *http.Request) {
	enc := json.NewEncoder(w)
	err := s.lab.WaitAddresses(r.Context(), func(missing string) {
		_ = enc.Encode(message{Progress: "waiting for " + missing})
		_ = http.NewResponseController(w).Flush()
	})
	if err != nil {
		_ = enc.Encode(message{Error: err.Error()})
		return
	}
	_ = enc.Encode(message{Done: true})
}

func (s *server) console(w http.ResponseWriter, r *http.Request) {
	node := r.FormValue("node")
	if r.FormValue("follow") == "" {
		lines, err := s.lab.ConsoleTail(node, 1<<20)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		for _, l := range lines {
			fmt.Fprintln(w, l)
		}
		return
	}
	err := s.lab.FollowConsole(r.Context(), node, func(l qemu.ConsoleLine) error {
		_, err := fmt.Fprintln(w, l)
		_ = http.NewResponseController(w).Flush()
		return err
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
	}
}

func (s *server) call(w http.ResponseWriter, r *http.Request) {
	var c Call
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := s.do(r.Context(), c); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

// directions are those of a call, both if it names none.
func directions(names []string) ([]ethernet.Direction, error) {
	if len(names) == 0 {
		return []ethernet.Direction{ethernet.Out, ethernet.In}, nil
	}
	var all []ethernet.Direction
	for _, n := range names {
		switch strings.ToLower(n) {
		case "out":
			all = append(all, ethernet.Out)
		case "in":
			all = append(all, ethernet.In)
		default:
			return nil, fmt.Errorf("direction %q: must be out or in, as the machine sees it", n)
		}
	}
	return all, nil
}

func (s *server) do(ctx context.Context, c Call) error {
	switch c.Op {
	case OpPowerOn:
		return s.lab.PowerOn(ctx, c.Node)
	case OpPowerOff:
		return s.lab.PowerOff(c.Node)
	case OpReset:
		return s.lab.Reset(ctx, c.Node)
	case OpFreeze:
		return s.lab.Freeze(ctx, c.Node, c.Clock)
	case OpThaw:
		return s.lab.Thaw(ctx, c.Node)
	case OpLink:
		return s.lab.SetLink(ctx, c.Node, c.Interface, c.Up, c.Silent)
	case OpPartition:
		return s.lab.Partition(c.Groups)
	case OpHeal:
		return s.lab.Heal(ctx)
	case OpLoss, OpDelay:
		dirs, err := directions(c.Directions)
		if err != nil {
			return err
		}
		return s.lab.ChangeFault(c.Node, c.Interface, dirs, func(f *ethernet.Fault) {
			if c.Op == OpLoss {
				f.Loss = c.Loss
			} else {
				f.Delay, f.Jitter = c.Delay, c.Jitter
			}
		})
	case OpImpair:
		var dirs []ethernet.Direction
		if len(c.Directions) > 0 {
			var err error
			if dirs, err = directions(c.Directions); err != nil {
				return err
			}
		}
		return s.lab.Impair(c.Node, c.Interface, dirs, ethernet.Fault{Loss: c.Loss, Delay: c.Delay, Jitter: c.Jitter, Duplicate: c.Duplicate, Corrupt: c.Corrupt})
	case OpBMC:
		return s.lab.SetBMC(c.Node, c.Mode)
	case OpSAN:
		if c.Order == nil {
			return errors.New("san: no order given")
		}
		_, err := s.lab.OrderSAN(ctx, *c.Order)
		return err
	case OpCable:
		return s.lab.Plug(ctx, c.Node, c.Interface, c.Switch)
	case OpMTU:
		return s.lab.LimitMTU(c.Node, c.Interface, c.MTU)
	case OpSave:
		return s.lab.Save(ctx, c.Folder)
	case OpAdd:
		if c.New == nil {
			return errors.New("add: no machine given")
		}
		return s.lab.Add(ctx, *c.New)
	default:
		return fmt.Errorf("the lab's daemon knows no %q: it is of another version; 'skein lab down' and up again", c.Op)
	}
}
