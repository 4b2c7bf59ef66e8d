package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/netboot"
)

func netbootCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "netboot", Short: "Boot machines from the network",
		Example: "  skein netboot serve --interface eth0"}
	cmd.AddCommand(netbootServeCommand(), netbootEnableCommand(), netbootDisableCommand(), netbootStatusCommand())
	return cmd
}

type netbootOptions struct {
	interfaces []string
	image      string
	port       uint16
	cmdline    string
	addresses  string
	router     string
	dns        []string
}

func netbootServeCommand() *cobra.Command {
	var o netbootOptions
	cmd := &cobra.Command{
		Use: "serve", Short: "Answer machines that boot from the network, until it is interrupted", Args: cobra.NoArgs,
		Long: `serve answers machines with BIOS or UEFI that boot from the network (PXE, iPXE, UEFI HTTP Boot) and gives them
kernel and archive. It says how far each machine gets.

It is a DHCP proxy: another server on the network gives the addresses, and is not touched. With --addresses it
gives them itself, and refuses to start where another server does. It needs root, for the ports 67, 69, 80
and 4011.`,
		Example: "  skein netboot serve --interface eth0\n  skein netboot serve --interface eth1 --addresses 192.168.7.50-192.168.7.99 --router 192.168.7.1",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config()
			if err != nil {
				return &usageError{err}
			}
			image, err := findImage(o.image)
			if err != nil {
				return err
			}
			if cfg.Folder, err = netboot.NewFolder(image); err != nil {
				return err
			}
			return serveNetboot(cmd.Context(), cmd, cfg)
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVarP(&o.interfaces, "interface", "i", nil, "network interface to serve; may be repeated")
	fl.StringVar(&o.image, "image", "", "folder of the image (default: $"+imageEnv+", or cache/image beside bin)")
	fl.Uint16Var(&o.port, "port", 80, "for HTTP; some firmware asks on port 80 only")
	fl.StringVar(&o.cmdline, "cmdline", initramfs.Cmdline, "what kernels are told, the same on every machine; the unified image has its own")
	fl.StringVar(&o.addresses, "addresses", "", "give these addresses too, FIRST-LAST, as the network's DHCP server")
	fl.StringVar(&o.router, "router", "", "with --addresses: the network's router")
	fl.StringSliceVar(&o.dns, "dns", nil, "with --addresses: name servers")
	_ = cmd.MarkFlagRequired("interface")
	return cmd
}

func (o *netbootOptions) config() (netboot.Config, error) {
	cfg := netboot.Config{HTTPPort: o.port, Cmdline: o.cmdline}
	for _, name := range o.interfaces {
		addr, err := firstIPv4(name)
		if err != nil {
			return cfg, err
		}
		cfg.Interfaces = append(cfg.Interfaces, netboot.Interface{Name: name, Addr: addr})
	}
	if o.addresses == "" {
		if o.router != "" || len(o.dns) > 0 {
			return cfg, errors.New("--router and --dns go with --addresses: as a proxy this gives no addresses")
		}
		return cfg, nil
	}
	from, to, ok := strings.Cut(o.addresses, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(from))
	last, err2 := netip.ParseAddr(strings.TrimSpace(to))
	if !ok || err1 != nil || err2 != nil {
		return cfg, fmt.Errorf("--addresses %s: want FIRST-LAST, such as 192.168.7.50-192.168.7.99", o.addresses)
	}
	if len(cfg.Interfaces) != 1 || !cfg.Interfaces[0].Addr.Contains(first) || !cfg.Interfaces[0].Addr.Contains(last) {
		return cfg, fmt.Errorf("--addresses %s: want one --interface, with an address of that network", o.addresses)
	}
	var err error
	if cfg.Pool, err = netboot.NewPool(first, last, time.Hour); err != nil {
		return cfg, err
	}
	if o.router != "" {
		if cfg.Router, err = netip.ParseAddr(o.router); err != nil {
			return cfg, fmt.Errorf("--router: %w", err)
		}
	}
	for _, d := range o.dns {
		a, err := netip.ParseAddr(d)
		if err != nil {
			return cfg, fmt.Errorf("--dns: %w", err)
		}
		cfg.DNS = append(cfg.DNS, a)
	}
	return cfg, nil
}

func firstIPv4(name string) (netip.Prefix, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--interface %s: %w", name, err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("--interface %s has no IPv4 address: give it one first (ip address add ... dev %s)", name, name)
}

func serveNetboot(ctx context.Context, cmd *cobra.Command, cfg netboot.Config) error {
	out := cmd.OutOrStdout()
	begin := time.Now()
	cfg.Changed = func(m netboot.Machine) {
		what := map[netboot.Stage]string{
			netboot.StageRefused: "is not answered: " + m.Detail, netboot.StageOffered: fmt.Sprintf("asks to be booted (%s, %s)", m.Firmware, m.Loader),
			netboot.StageLoader: "takes the loader", netboot.StageScript: "takes the script", netboot.StageKernel: "takes the kernel",
			netboot.StageArchive: "takes the archive", netboot.StageBooted: "has everything",
		}[m.Stage]
		fmt.Fprintf(out, "%7.1fs  %s  %s\n", time.Since(begin).Seconds(), m.MAC, what)
	}
	s, err := netboot.NewServer(cfg)
	if err != nil {
		return err
	}
	if cfg.Pool != nil {
		fmt.Fprintln(out, "looking for another DHCP server ...")
	}
	return s.Run(ctx)
}
