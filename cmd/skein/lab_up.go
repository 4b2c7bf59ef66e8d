package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/net/proxy"

	"github.com/skein-os/skein/agent/seed"
	"github.com/skein-os/skein/netboot"
	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
)

// imageEnv names the folder of the image that machines boot.
const imageEnv = "SKEIN_IMAGE_DIR"

// labFirmware is what --boot can be.
var labFirmware = map[string]netboot.Firmware{"bios": netboot.BIOS, "uefi": netboot.UEFIX64, "uki": netboot.UEFIX64}

type labUpOptions struct {
	nodes       int
	witness     bool
	memoryMB    int
	image       string
	from        string
	demo        string
	appended    string
	proxy       string
	boot        string
	san         string
	wipeSAN     bool
	membersBoot bool
	seed        uint64
	timeout     time.Duration
}

func labUpCommand() *cobra.Command {
	var o labUpOptions
	cmd := &cobra.Command{
		Use: "up", Short: "Start machines that become one cluster", Args: cobra.NoArgs,
		Long: `up starts the machines and returns when they are one cluster. They run until 'skein lab down'. With
--from they carry on from a save ('skein lab save'), in about a second.`,
		Example: "  skein lab up\n  skein lab up --nodes 5 --memory 768\n  skein lab up --nodes 2 --witness   # the third machine only votes\n  skein lab up --san                 # and a storage array, with 4 LUNs\n  skein lab up --from ready\n  skein lab up --boot bios           # from the network, as real machines do",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.nodes < 1 || o.nodes > 64 {
				return &usageError{fmt.Errorf("--nodes %d: must be 1 to 64", o.nodes)}
			}
			if o.memoryMB < 128 {
				return &usageError{fmt.Errorf("--memory %d: a machine needs at least 128 MB", o.memoryMB)}
			}
			if _, ok := labFirmware[o.boot]; o.boot != "" && !ok {
				return &usageError{fmt.Errorf("--boot %q: want bios, uefi or uki (all from the network), or leave it out", o.boot)}
			}
			if o.membersBoot && o.boot == "" {
				return &usageError{errors.New("--members-boot goes with --boot")}
			}
			if o.wipeSAN && o.san == "" {
				return &usageError{errors.New("--wipe-san goes with --san")}
			}
			if o.from != "" && (o.boot != "" || o.san != "" || cmd.Flags().Changed("nodes") || o.witness || cmd.Flags().Changed("memory") || cmd.Flags().Changed("image")) {
				return &usageError{errors.New("--from brings its own machines: leave out --nodes, --witness, --memory, --image, --san and --boot")}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			return labUp(ctx, cmd, o)
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&o.nodes, "nodes", 3, "how many machines")
	fl.BoolVar(&o.witness, "witness", false, "one more machine that only votes and runs no services")
	fl.IntVar(&o.memoryMB, "memory", qemu.DefaultMemoryMB, "memory of each machine, in MB")
	fl.StringVar(&o.image, "image", "", "folder with vmlinux and initramfs.cpio.lz4 (default: $"+imageEnv+", or cache/image beside bin)")
	fl.StringVar(&o.from, "from", "", "carry on from this save")
	fl.StringVar(&o.demo, "demo", "", "deploy the demo in this folder when the cluster is there")
	fl.StringVar(&o.boot, "boot", "", "boot from the network: bios, uefi (by iPXE) or uki (UEFI by itself) (default: the emulator loads the kernel, which is faster)")
	fl.BoolVar(&o.membersBoot, "members-boot", false, "with --boot: machines that 'skein lab add' adds are booted by the cluster ('skein netboot enable')")
	fl.StringVar(&o.san, "san", "", "a storage array too: how many LUNs, the first of 768 MiB and the others of 2 GiB, or their sizes, as in 64M,2G,10G")
	fl.Lookup("san").NoOptDefVal = strconv.Itoa(sanLUNs)
	fl.BoolVar(&o.wipeSAN, "wipe-san", false, "begin with empty LUNs (default: as the last lab in this folder left them)")
	fl.StringVar(&o.appended, "append", "", "more words for the kernel's command line")
	fl.StringVar(&o.proxy, "proxy", "", "address of the proxy on loopback (default: "+daemon.DefaultProxy+", or a free port)")
	fl.Uint64Var(&o.seed, "seed", 0, "make the chance in 'lab loss' repeatable (default: another one each time)")
	fl.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this long")
	return cmd
}

func labUp(ctx context.Context, cmd *cobra.Command, o labUpOptions) error {
	dir, err := labDir(cmd)
	if err != nil {
		return err
	}
	client := daemon.NewClient(dir)
	if st, err := client.State(ctx); err == nil {
		return fmt.Errorf("a lab of %d machines is up already (see 'skein lab ps'); 'skein lab down' ends it, 'skein lab add' adds a machine", len(st.Machines))
	} else if !errors.Is(err, daemon.ErrDown) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	cfg := daemon.Config{Dir: dir, MemoryMB: o.memoryMB, Append: o.appended, Proxy: o.proxy, Seed: o.seed}
	if o.from != "" {
		if cfg.From, err = saveFolder(dir, o.from); err != nil {
			return err
		}
		if _, err := os.Stat(cfg.From); err != nil {
			return fmt.Errorf("no save %q; 'skein lab saves' lists them", o.from)
		}
		if err := copySecrets(dir, cfg.From); err != nil {
			return fmt.Errorf("take over the secrets of save %q: %w", o.from, err)
		}
	} else if err := newMachines(&cfg, o); err != nil {
		return err
	}

	steps := newSteps(cmd.ErrOrStderr())
	defer steps.end()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := daemon.Spawn(ctx, []string{self, "lab", "daemon"}, cfg, steps.say); err != nil {
		return fmt.Errorf("start the lab: %w", err)
	}
	st, err := client.State(ctx)
	if err != nil {
		return err
	}
	if err := client.WaitAddresses(ctx, steps.say); err != nil {
		return fmt.Errorf("%w; the machines still run: 'skein lab console n1' shows what they say, 'skein lab down' ends them", err)
	}
	steps.say("the machines have their addresses")
	if labAfterUp != nil {
		info, err := newLabInfo(dir, st, o, steps)
		if err != nil {
			return err
		}
		if err := labAfterUp(ctx, info); err != nil {
			return fmt.Errorf("%w; the machines still run: 'skein lab ps' and 'skein lab console n1' show how they are", err)
		}
	}
	steps.end()
	fmt.Fprintf(cmd.OutOrStdout(), "%d machines are up. They are reached by the proxy %s (HTTP) or %s\n", len(st.Machines), st.Proxy, st.SOCKS)
	return nil
}

// newMachines fills in machines that boot an image.
func newMachines(cfg *daemon.Config, o labUpOptions) error {
	image, err := findImage(o.image)
	if err != nil {
		return err
	}
	if o.boot != "" {
		cfg.Netboot = &qemu.Netboot{Image: image, Firmware: labFirmware[o.boot], Unified: o.boot == "uki"}
		if o.membersBoot {
			cfg.Netboot.First = o.nodes
		}
	}
	cfg.Kernel, cfg.Initrd = filepath.Join(image, "vmlinux"), filepath.Join(image, "initramfs.cpio.lz4")
	for _, f := range []string{cfg.Kernel, cfg.Initrd} {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("no image to boot: %w; 'make image' builds one, --image names its folder", err)
		}
	}
	if o.san != "" {
		if cfg.SAN, err = newSAN(image, o.san, o.wipeSAN); err != nil {
			return err
		}
	}
	machines := o.nodes
	if o.witness {
		machines++
	}
	c, err := newLabCluster(cfg.Dir, machines)
	if err != nil {
		return err
	}
	for number := 1; number <= o.nodes; number++ {
		n, err := c.node(number)
		if err != nil {
			return err
		}
		cfg.Nodes = append(cfg.Nodes, n)
	}
	if o.witness {
		n, err := c.machine(labWitness, machines, seed.RoleWitness)
		if err != nil {
			return err
		}
		cfg.Nodes = append(cfg.Nodes, n)
	}
	return nil
}

// findImage returns the folder that was given, or else where `make image` puts it.
func findImage(given string) (string, error) {
	if given == "" {
		given = os.Getenv(imageEnv)
	}
	if given == "" {
		self, err := os.Executable()
		if err != nil {
			return "", err
		}
		given = filepath.Join(filepath.Dir(self), "..", "cache", "image")
	}
	return filepath.Abs(given)
}

func newLabInfo(dir string, st *daemon.State, o labUpOptions, steps *steps) (*labInfo, error) {
	u, err := url.Parse(st.Proxy)
	if err != nil {
		return nil, err
	}
	dial, err := labDialer(u.Host)
	if err != nil {
		return nil, err
	}
	c, err := readLabCluster(dir)
	if err != nil {
		return nil, err
	}
	info := &labInfo{Dir: dir, Proxy: u.Host, Cluster: c.Name, OperatorKey: filepath.Join(dir, labOperatorFile), Demo: o.demo,
		Restored: o.from != "", Dial: dial, Progress: steps.say}
	for _, m := range st.Machines {
		info.Nodes = append(info.Nodes, labNode{m.Name, m.Addresses})
	}
	return info, nil
}

// labDialer connects into the lab by way of its proxy.
func labDialer(hostPort string) (func(ctx context.Context, network, addr string) (net.Conn, error), error) {
	d, err := proxy.SOCKS5("tcp", hostPort, nil, &net.Dialer{})
	if err != nil {
		return nil, err
	}
	return d.(proxy.ContextDialer).DialContext, nil
}

func labAddCommand() *cobra.Command {
	var token string
	var witness, approval bool
	cmd := &cobra.Command{
		Use: "add", Short: "Add a machine that joins the cluster", Args: cobra.NoArgs,
		Example: "  skein lab add\n  skein lab add --witness   # it only votes\n  skein lab add --token $(openssl rand -hex 32)   # a stranger: watch it being refused\n  skein lab add --approval   # then skein node pending, skein node approve CODE",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := labDir(cmd)
			if err != nil {
				return err
			}
			client := daemon.NewClient(dir)
			st, err := client.State(cmd.Context())
			if err != nil {
				return err
			}
			c, err := readLabCluster(dir)
			if err != nil {
				return err
			}
			if token != "" {
				c.Token = token
			}
			n, err := c.next(st.Machines, witness)
			if err != nil {
				return err
			}
			if approval {
				pin, err := clusterPin(cmd)
				if err != nil {
					return fmt.Errorf("fingerprint of the lab's cluster: %w", err)
				}
				n.Seed, n.Append = nil, pin.Words()
			}
			if err := client.Call(cmd.Context(), daemon.Call{Op: daemon.OpAdd, New: &n}); err != nil {
				return err
			}
			steps := newSteps(cmd.ErrOrStderr())
			defer steps.end()
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			if err := client.WaitAddresses(ctx, steps.say); err != nil {
				return err
			}
			steps.end()
			if approval {
				fmt.Fprintf(cmd.OutOrStdout(), "%[1]s is up and asks to join: 'skein lab console %[1]s' shows its code, 'skein node pending' those who wait\n", n.Name)
				return nil
			}
			if cluster, err := labClusterClient(); err == nil {
				if err := setLabBMCs(ctx, cluster, dir, n.Name); err != nil {
					fmt.Fprintf(cmd.ErrOrStderr(), "the cluster cannot switch %s off yet: %v\n", n.Name, err)
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is up; 'skein node ls' shows when it has joined\n", n.Name)
			return nil
		},
	}
	cmd.Flags().BoolVar(&witness, "witness", false, "it only votes and runs no services")
	cmd.Flags().BoolVar(&approval, "approval", false, "give it no token but the fingerprint of the cluster's CA: it waits for 'skein node approve'")
	cmd.Flags().StringVar(&token, "token", "", "the join token to give it, 64 hexadecimal digits (default: the lab's)")
	return cmd
}

// steps prints what is being done, with the time since the start, and on a terminal keeps that time
// running.
type steps struct {
	w     io.Writer
	p     *progress
	begin time.Time

	mu   sync.Mutex
	last string
	stop chan struct{}
	done sync.WaitGroup
}

func newSteps(w io.Writer) *steps {
	s := &steps{w: w, p: newProgress(w), begin: time.Now(), stop: make(chan struct{})}
	if stop := s.stop; s.p.tty {
		s.done.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					s.mu.Lock()
					if s.last != "" {
						s.p.update(s.last)
					}
					s.mu.Unlock()
				case <-stop:
					return
				}
			}
		})
	}
	return s
}

// say starts a step.
func (s *steps) say(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if what == s.last {
		return
	}
	s.p.done()
	s.p.drawn = false
	s.last = what
	fmt.Fprintf(s.w, "%6.1fs  %s\n", time.Since(s.begin).Seconds(), what)
}

// end stops the running time. It may be called twice.
func (s *steps) end() {
	s.mu.Lock()
	if s.stop == nil {
		s.mu.Unlock()
		return
	}
	close(s.stop)
	s.stop = nil
	s.mu.Unlock()
	s.done.Wait()
	s.p.done()
}

func writeJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// labLogger is the daemon's log, on its standard error, which is a file in the lab's folder.
func labLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
}
