package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/initramfs"
	"github.com/skein-os/skein/netboot"
)

func netbootEnableCommand() *cobra.Command {
	var image string
	var wait time.Duration
	req := api.NetbootRequest{}
	cmd := &cobra.Command{Use: "enable", Short: "Have members boot machines from the network", Args: cobra.NoArgs,
		Long: `enable sends an image's boot files to the cluster, and its best three members answer machines that boot from the network,
as DHCP proxies, from then on. Each of the three has a copy of the files in its memory. Again with another image, it replaces the
one before.`,
		Example: "  skein netboot enable\n  skein netboot enable --interface eth0 --image /srv/skein-image",
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := findImage(image)
			if err != nil {
				return err
			}
			files, err := netboot.NewFolder(folder)
			if err != nil {
				return err
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if req.Files, err = sendBootFiles(cmd.Context(), c, files); err != nil {
				return err
			}
			if err := c.EnableNetboot(cmd.Context(), req); err != nil {
				return err
			}
			if wait > 0 {
				if err := awaitNetboot(cmd, c, wait); err != nil {
					return err
				}
			}
			return showNetboot(cmd, c)
		}}
	addOutputFlag(cmd)
	fl := cmd.Flags()
	fl.StringSliceVarP(&req.Interfaces, "interface", "i", nil, "network interface of the members; may be repeated (default: all that have an address)")
	fl.StringVar(&image, "image", "", "folder of the image (default: $"+imageEnv+", or cache/image beside bin)")
	fl.Uint16Var(&req.Port, "port", 80, "for HTTP; some firmware asks on port 80 only")
	fl.StringVar(&req.Cmdline, "cmdline", initramfs.Cmdline, "what kernels are told, the same on every machine; the unified image has its own")
	fl.DurationVar(&wait, "wait", 2*time.Minute, "how long to wait until the members answer; 0: do not")
	return cmd
}

// sendBootFiles sends all files to one node.
func sendBootFiles(ctx context.Context, c *api.Client, folder netboot.Folder) ([]cluster.NetbootFile, error) {
	var out []cluster.NetbootFile
	for name, path := range folder {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		f, err := c.StoreBootFile(ctx, file)
		if err := errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("send %s: %w", path, err)
		}
		f.Name = name
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b cluster.NetbootFile) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out, nil
}

// awaitNetboot waits until all members that are to answer do.
func awaitNetboot(cmd *cobra.Command, c *api.Client, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		st, err := c.Netboot(cmd.Context())
		if err != nil {
			return err
		}
		missing := ""
		for _, name := range st.Servers {
			if of, err := c.NodeNetboot(cmd.Context(), name); err != nil {
				missing = name + ": " + err.Error()
			} else if !of.Serving {
				missing = name + " does not answer yet: " + orDash(of.Problem)
			}
		}
		if missing == "" && len(st.Servers) > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s %s; 'skein netboot status' shows how it goes on", limit, missing)
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func netbootDisableCommand() *cobra.Command {
	return &cobra.Command{Use: "disable", Short: "Have members boot no machines any more", Args: cobra.NoArgs,
		Long:    "disable ends what 'skein netboot enable' began. Members forget the files some minutes later.",
		Example: "  skein netboot disable",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if err := c.DisableNetboot(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "members boot no machines any more")
			return nil
		}}
}

func netbootStatusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Which members boot machines, and how far each machine got", Args: cobra.NoArgs,
		Example: "  skein netboot status\n  skein netboot status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return showNetboot(cmd, c)
		}}
	addOutputFlag(cmd)
	return cmd
}

// netbootShown is the ledger's and each server's word.
type netbootShown struct {
	api.NetbootStatus
	Nodes   map[string]api.NodeNetboot `json:"nodes"`
	Unasked map[string]string          `json:"unasked,omitempty"` // nodes that did not answer, and why
}

func showNetboot(cmd *cobra.Command, c *api.Client) error {
	st, err := c.Netboot(cmd.Context())
	if err != nil {
		return err
	}
	out := netbootShown{NetbootStatus: st, Nodes: map[string]api.NodeNetboot{}, Unasked: map[string]string{}}
	for _, name := range st.Servers {
		of, err := c.NodeNetboot(cmd.Context(), name)
		if err != nil {
			out.Unasked[name] = err.Error()
		} else {
			out.Nodes[name] = of
		}
	}
	return show(cmd, out, func(t *table) {
		if st.Enabled == nil {
			t.row("members boot no machines; 'skein netboot enable' has them do so")
			return
		}
		var size int64
		for _, f := range st.Enabled.Files {
			size += f.Size
		}
		t.row("files", fmt.Sprintf("%d, %s on each server", len(st.Enabled.Files), bytesText(size)))
		t.row("interfaces", orDash(joined(st.Enabled.Interfaces)))
		t.blank()
		t.row("SERVER", "STATE", "MACHINE", "FIRMWARE", "STAGE", "DETAIL")
		for _, name := range st.Servers {
			of := out.Nodes[name]
			switch {
			case out.Unasked[name] != "":
				t.row(name, "not asked", "-", "-", "-", out.Unasked[name])
			case !of.Serving:
				t.row(name, "not serving", "-", "-", "-", orDash(of.Problem))
			case len(of.Machines) == 0:
				t.row(name, "serving", "-", "-", "-", "-")
			}
			for _, m := range of.Machines {
				t.row(name, "serving", m.MAC, orDash(string(m.Firmware)), m.Stage, orDash(m.Detail))
			}
		}
	})
}
