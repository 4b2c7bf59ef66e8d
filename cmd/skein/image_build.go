package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/images/demo"
	"github.com/skein-os/skein/images/secureboot"
	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/initramfs/debian"
)

// imageBuildCommands are the parts of `skein image` that make images rather than talk to a cluster.
func imageBuildCommands() []*cobra.Command {
	return []*cobra.Command{imageBuildCommand(), imageDemoCommand(), imageKeysCommand()}
}

func imageBuildCommand() *cobra.Command {
	var cache, out, skeind, array, profile, sign string
	var formats, tools, modules, set []string
	cmd := &cobra.Command{
		Use: "build", Short: "Build what machines boot: the kernel and the archive with skeind in it", Args: cobra.NoArgs,
		Long: `Builds the kernel and the initramfs that machines of a cluster boot.

Kernel, modules and C programs come from Debian packages, fetched by this machine's apt into the cache
folder; nothing is installed and no root is needed. An unchanged input is not built again.

Formats: lab is vmlinux and an lz4 archive (for emulators), and the archive of the lab's storage array;
pxe is bzImage and a zstd archive, with the iPXE programs that old firmware loads first; uki is all in
one program for UEFI, skein.efi. raw (skein.img) is written onto a disk or USB stick as it is and boots there
by BIOS and UEFI; iso (skein.iso) is the same bytes, for CDs and remote media; qcow2 is that disk for QEMU.

--set puts words onto the kernel's command line in uki, raw, iso and qcow2: everyone who has the image can
read them, so no secrets. --sign signs for Secure Boot with the keys that 'skein image keys new' made.`,
		Example: "  skein image build\n  skein image build --format raw --set skein.san=iqn.2026-01.example:array@10.0.0.9 --sign keys\n  skein image build --format pxe --out /srv/boot\n  skein image build --skeind ./bin/skeind --modules nft_log",
		RunE: func(cmd *cobra.Command, _ []string) error {
			archive, err := packageArchive(cache, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			o := initramfs.Options{
				Archive: archive, Skeind: skeind, SAN: array, Out: out, Profile: profile, Modules: modules, Tools: tools, Set: set,
				Log: cmd.ErrOrStderr(),
			}
			for _, f := range formats {
				if !slices.Contains(initramfs.Formats, initramfs.Format(f)) {
					return &usageError{fmt.Errorf("no format %q; there is: %s", f, formatNames())}
				}
				o.Formats = append(o.Formats, initramfs.Format(f))
			}
			if sign != "" {
				if o.Keys, err = secureboot.Load(sign); err != nil {
					return err
				}
			}
			m, built, err := initramfs.Build(cmd.Context(), o)
			if err != nil {
				return fmt.Errorf("build the image: %w", err)
			}
			showBuild(cmd.OutOrStdout(), out, m, built)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&cache, "cache", "cache", "folder for downloaded and unpacked packages")
	fl.StringVar(&out, "out", "", "folder for the result (default: image in the cache folder)")
	fl.StringVar(&skeind, "skeind", "", "the node's program, static (default: skeind beside this program)")
	fl.StringVar(&array, "san", "", "the program of the lab's storage array, static (default: skein-san beside this program, if it is there)")
	fl.StringSliceVar(&formats, "format", []string{"lab", "pxe", "uki"}, "what to write: "+formatNames())
	fl.StringArrayVar(&set, "set", nil, "KEY=VALUE for the kernel's command line of uki, raw, iso and qcow2")
	fl.StringVar(&sign, "sign", "", "folder of 'skein image keys new': sign for Secure Boot")
	fl.StringVar(&profile, "profile", "virtual", "kind of machine, which decides the kernel modules")
	fl.StringSliceVar(&modules, "modules", nil, "further kernel modules")
	fl.StringSliceVar(&tools, "tools", initramfs.DefaultTools, "C programs to put in")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if out == "" {
			out = filepath.Join(cache, "image")
		}
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find the folder of this program: %w", err)
		}
		if skeind == "" {
			skeind = filepath.Join(filepath.Dir(self), "skeind")
		}
		if beside := filepath.Join(filepath.Dir(self), "skein-san"); array == "" {
			if _, err := os.Stat(beside); err == nil {
				array = beside
			}
		}
		return nil
	}
	return cmd
}

func imageDemoCommand() *cobra.Command {
	var cache, out, reports string
	var postgres bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Build the container images of the demonstration", Args: cobra.NoArgs,
		Long: `Builds demo/web:1, demo/media:1 and demo/reports:1 as OCI archives, and the Compose file that runs them.

nginx comes from Debian packages, as in 'skein image build'. The report generator is compiled from
Skein's source with this machine's Go, unless --reports names it. With --postgres there is
demo/postgres:1 too, Debian's PostgreSQL: for a service with a volume.`,
		Example: "  skein image demo --out demo\n  skein image load demo/*.tar\n  skein deploy -f demo/compose.yaml demo",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				out = filepath.Join(cache, "demo")
			}
			archive, err := packageArchive(cache, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if reports == "" {
				if reports, err = buildProgram(cmd.Context(), cache, "reports", cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			o := demo.Options{Archive: archive, Reports: reports, Out: out}
			if postgres {
				if o.Postgres, err = buildProgram(cmd.Context(), cache, "postgres", cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			results, err := demo.Build(cmd.Context(), o)
			if err != nil {
				return fmt.Errorf("build the demo images: %w", err)
			}
			for _, r := range results {
				fmt.Fprintf(cmd.OutOrStdout(), "%s  %s  %.1f MB  %.19s\n", r.File, r.Ref, float64(r.Size)/1e6, r.Digest)
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&cache, "cache", "cache", "folder for downloaded and unpacked packages")
	fl.StringVar(&out, "out", "", "folder for the result (default: demo in the cache folder)")
	fl.StringVar(&reports, "reports", "", "the report generator's program, static (default: compile it)")
	fl.BoolVar(&postgres, "postgres", false, "build demo/postgres:1 too (downloads 45 MB of packages)")
	return cmd
}

// buildProgram compiles a program of the demo's images so that the same source gives the same bytes.
func buildProgram(ctx context.Context, cache, name string, log io.Writer) (string, error) {
	out, err := filepath.Abs(filepath.Join(cache, name))
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out,
		"github.com/skein-os/skein/images/demo/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stdout, cmd.Stderr = log, log
	if err := debian.Step(log, "compiling "+name+" of the demo", cmd.Run); err != nil {
		return "", fmt.Errorf("compile %s of the demo (needs Go; run it in Skein's source folder): %w", name, err)
	}
	return out, nil
}

// packageArchive opens the package cache with the pins that skein is built with.
func packageArchive(cache string, log io.Writer) (*debian.Archive, error) {
	pins, err := debian.DefaultPins()
	if err != nil {
		return nil, err
	}
	return &debian.Archive{Dir: cache, Pins: pins, Log: log}, nil
}

func showBuild(w io.Writer, out string, m initramfs.Manifest, built bool) {
	var parts []string
	for _, f := range m.Files {
		parts = append(parts, fmt.Sprintf("%s %.1f MB", f.Name, float64(f.Size)/1e6))
	}
	word := "built"
	if !built {
		word = "up to date:"
	}
	for _, p := range m.Packages {
		if p.Replaces != "" {
			fmt.Fprintf(w, "not as pinned: %s %s instead of %s\n", p.Name, p.Version, p.Replaces)
		}
	}
	fmt.Fprintf(w, "%s %s (kernel %s, %d modules, %d packages): %s\n",
		word, out, m.Kernel, m.Modules, len(m.Packages), strings.Join(parts, ", "))
}
