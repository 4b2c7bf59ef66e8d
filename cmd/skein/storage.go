package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/disks"
)

func addNodeFlag(cmd *cobra.Command, node *string) {
	cmd.Flags().StringVar(node, "node", "", "the node that does it (default: one that sees the disk)")
	_ = cmd.RegisterFlagCompletionFunc("node", completeNodes)
}

// completeFrom completes the first argument from what the cluster has.
func completeFrom(names func(context.Context, *api.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := client(cmd)
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		list, err := names(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

var (
	completeSANs = completeFrom(func(ctx context.Context, c *api.Client) (out []string, err error) {
		list, err := c.SANs(ctx)
		for i := range list {
			out = append(out, list[i].Name)
		}
		return out, err
	})
	completeDisks = completeFrom(func(ctx context.Context, c *api.Client) (out []string, err error) {
		list, err := allDisks(ctx, c)
		for i := range list {
			out = append(out, list[i].Name())
		}
		return out, err
	})
	completeVolumes = completeFrom(func(ctx context.Context, c *api.Client) (out []string, err error) {
		list, err := c.Volumes(ctx)
		for i := range list {
			out = append(out, list[i].Name)
		}
		return out, err
	})
)

func sanCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "san", Short: "Targets whose disks all nodes see",
		Example: "  skein san add main --iqn iqn.2026-01.dev.skein:lab --portal 192.0.2.10 --portal 198.51.100.10\n  skein san ls"}
	var req api.SANRequest
	var portals []string
	var secretFile, targetFile string
	add := &cobra.Command{Use: "add NAME", Short: "Have all nodes log in to a target, or change how", Args: cobra.ExactArgs(1),
		Long: `add records an iSCSI target; give every portal it has, best on two networks. The CHAP secret is read from a file,
or from the standard input for -, and kept among the cluster's secrets: no command shows it.`,
		Example: "  skein san add main --iqn iqn.2026-01.dev.skein:lab --portal 192.0.2.10 --portal 198.51.100.10\n  skein san add main --iqn iqn.2026-01.dev.skein:lab --portal 192.0.2.10 --user skein --secret-file -",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			for _, text := range portals {
				p, err := parsePortal(text)
				if err != nil {
					return &usageError{err}
				}
				req.Portals = append(req.Portals, p)
			}
			if (req.User == "") != (secretFile == "") {
				return &usageError{errors.New("--user and --secret-file belong together")}
			}
			if (req.TargetUser == "") != (targetFile == "") {
				return &usageError{errors.New("--target-user and --target-secret-file belong together")}
			}
			if secretFile == "-" && targetFile == "-" {
				return &usageError{errors.New("only one of the secrets can come from the standard input")}
			}
			for _, s := range []struct {
				file string
				into *string
			}{{secretFile, &req.Secret}, {targetFile, &req.TargetSecret}} {
				if s.file == "" {
					continue
				}
				var err error
				if *s.into, err = readSecret(cmd, s.file); err != nil {
					return err
				}
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			s, err := c.SetSAN(cmd.Context(), req)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s at %d portals\n", s.Name, s.IQN, len(s.Portals))
			return nil
		}}
	fl := add.Flags()
	fl.StringVar(&req.IQN, "iqn", "", "the target's name")
	fl.StringArrayVar(&portals, "portal", nil, "ADDRESS[:PORT] of a portal; may be repeated")
	fl.StringVar(&req.User, "user", "", "CHAP user")
	fl.StringVar(&secretFile, "secret-file", "", "file with the CHAP secret, - for standard input")
	fl.StringVar(&req.TargetUser, "target-user", "", "whom the target has to prove to be (mutual CHAP)")
	fl.StringVar(&targetFile, "target-secret-file", "", "file with the target's CHAP secret, - for standard input")
	rm := &cobra.Command{Use: "rm NAME", Short: "Forget a target", Args: cobra.ExactArgs(1), ValidArgsFunction: completeSANs, Example: "  skein san rm main",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return c.RemoveSAN(cmd.Context(), args[0])
		}}
	cmd.AddCommand(sanLsCommand(), add, rm, sanInitiatorsCommand(), sanDiscoverCommand())
	return cmd
}

// diskView is a disk as the ledger has it and as nodes see it.
type diskView struct {
	cluster.Disk
	Enrolled bool                  `json:"enrolled"`
	Nodes    map[string]disks.Seen `json:"nodes"` // as each sees it
	// Registered is who may write, as the disk says; only of 'disk show'.
	Registered []api.DiskRegistration `json:"registered,omitempty"`
	Volume     string                 `json:"volume,omitempty"`
	Owner      string                 `json:"owner,omitempty"` // node that runs the volume's service
	Unasked    []string               `json:"unasked,omitempty"`
}

// allDisks asks the ledger and every node. A node that does not answer is named, and no reason to fail.
func allDisks(ctx context.Context, c *api.Client) ([]diskView, error) {
	enrolled, err := c.Disks(ctx)
	if err != nil {
		return nil, err
	}
	volumes, err := c.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	byWWN := map[string]*diskView{}
	for _, d := range enrolled {
		byWWN[d.WWN] = &diskView{Disk: d, Enrolled: true, Nodes: map[string]disks.Seen{}}
	}
	var unasked []string
	for _, n := range st.Nodes {
		seen, err := c.SeenDisks(ctx, n.Name)
		if err != nil {
			unasked = append(unasked, fmt.Sprintf("%s: %v", n.Name, err))
			continue
		}
		for _, s := range seen {
			d := byWWN[s.WWN]
			if d == nil {
				d = &diskView{Disk: cluster.Disk{WWN: s.WWN, Size: s.Size, BlockSize: s.BlockSize, Model: s.Model}, Nodes: map[string]disks.Seen{}}
				byWWN[s.WWN] = d
			}
			d.Nodes[n.Name] = s
		}
	}
	out := []diskView{}
	for _, d := range byWWN {
		d.Unasked = unasked
		for _, v := range volumes {
			if v.Disk == d.WWN {
				d.Volume, d.Owner = v.Name, v.Node
			}
		}
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b diskView) int { return strings.Compare(a.WWN, b.WWN) })
	return out, nil
}

func fencing(d *diskView) string {
	switch {
	case !d.Enrolled:
		return "not enrolled"
	case d.FastFenced:
		return "fast-fenced"
	}
	return "not fast-fenced: " + d.Because
}

func nodesOf(d *diskView) string {
	var out []string
	for n, s := range d.Nodes {
		out = append(out, fmt.Sprintf("%s (%d)", n, len(s.Paths)))
	}
	slices.Sort(out)
	return joined(out)
}

func diskLsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "The disks that nodes see, and which of them are this cluster's", Args: cobra.NoArgs, Example: "  skein disk ls\n  skein disk ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := allDisks(cmd.Context(), c)
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("DISK", "ALIAS", "SIZE", "MODEL", "NODES (PATHS)", "VOLUME", "FENCING")
				for i := range list {
					d := &list[i]
					t.row(d.WWN, orDash(d.Alias), bytesText(d.Size), orDash(d.Model), nodesOf(d), orDash(d.Volume), fencing(d))
				}
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func findDisk(ctx context.Context, c *api.Client, name string) (diskView, error) {
	list, err := allDisks(ctx, c)
	if err != nil {
		return diskView{}, err
	}
	i := slices.IndexFunc(list, func(d diskView) bool { return d.WWN == name || d.Alias == name })
	if i < 0 {
		return diskView{}, fmt.Errorf("no node sees a disk %q, and none is enrolled by that name; 'skein disk ls' lists them", name)
	}
	return list[i], nil
}

func diskShowCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "show DISK", Short: "A disk: verdict, paths on each node, volume and owner", Args: cobra.ExactArgs(1), ValidArgsFunction: completeDisks, Example: "  skein disk show db",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			d, err := findDisk(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if node, err := seer(&d, d.Owner); err == nil && len(d.Nodes[node].Paths) > 0 {
				if d.Registered, err = c.DiskRegistrations(cmd.Context(), node, d.WWN); err != nil {
					d.Unasked = append(d.Unasked, err.Error())
				}
			}
			return show(cmd, d, func(t *table) {
				t.row("disk", d.WWN)
				t.row("alias", orDash(d.Alias))
				t.row("model", orDash(d.Model))
				t.row("size", bytesText(d.Size))
				t.row("fencing", fencing(&d))
				if d.Enrolled {
					t.row("tested", fmt.Sprintf("by %s, %s, through %s", d.TestedBy, d.Tested.Format(time.RFC3339), joined(d.Paths)))
				}
				t.row("volume", orDash(d.Volume))
				t.row("owner", orDash(d.Owner))
				t.blank()
				drawPaths(t, &d)
				if len(d.Registered) > 0 {
					t.blank()
					t.row("REGISTERED", "KEY", "NEXUSES", "RESERVATION")
					for _, r := range d.Registered {
						t.row(cmp.Or(r.Owner, "a stranger"), r.Key, r.Registration.Paths, map[bool]string{true: "holds it", false: "-"}[r.Holder])
					}
				}
				for _, u := range d.Unasked {
					t.row("not asked", u)
				}
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

// drawPaths shows each node's paths. A path is in use only while its node has a claim on the disk.
func drawPaths(t *table, d *diskView) {
	t.row("NODE", "PATH", "PORTAL", "KERNEL", "IN THE MAP")
	for _, n := range slices.Sorted(maps.Keys(d.Nodes)) {
		s := d.Nodes[n]
		if s.Map != nil && s.Map.Queueing {
			t.row(n, "", "", "", "no path works: I/O waits since "+s.Map.NoPathSince.Format(time.TimeOnly))
		}
		for _, p := range s.Paths {
			use := orDash(p.Use)
			if s.Map == nil || s.Map.Closed {
				use = "-"
			} else if p.Because != "" {
				use += ": " + p.Because
			}
			t.row(n, p.Name, orDash(p.Portal), p.State, use)
		}
	}
}

// seer is the node to ask about a disk: the one with most paths to it, unless the operator named one.
func seer(d *diskView, node string) (string, error) {
	if node != "" {
		return node, nil
	}
	best := ""
	for n, s := range d.Nodes {
		if have := len(d.Nodes[best].Paths); best == "" || len(s.Paths) > have || len(s.Paths) == have && n < best {
			best = n
		}
	}
	if best == "" {
		return "", fmt.Errorf("no node sees disk %s now%s", d.Name(), strings.Join(append([]string{""}, d.Unasked...), "; "))
	}
	return best, nil
}

// testOnNode has a node test a disk and prints the verdict, which is also the exit code.
func testOnNode(ctx context.Context, cmd *cobra.Command, node, name string, req api.DiskTestRequest) error {
	c, err := client(cmd)
	if err != nil {
		return err
	}
	d, err := findDisk(ctx, c, name)
	if err != nil {
		return err
	}
	if node, err = seer(&d, node); err != nil {
		return err
	}
	res, err := c.TestDisk(ctx, node, d.WWN, req)
	if err != nil {
		return err
	}
	if err := show(cmd, res, func(t *table) {
		t.row(res.Disk.Name()+" on "+res.Disk.TestedBy+":", res.Verdict)
		if res.Content != "" {
			t.row("content:", res.Content)
		}
	}); err != nil {
		return err
	}
	if !res.Disk.FastFenced {
		return &exitError{exitFailed}
	}
	return nil
}

func diskEnrolCommand() *cobra.Command {
	var node string
	var yes bool
	req := api.DiskTestRequest{Enrol: true}
	cmd := &cobra.Command{Use: "enrol DISK", Short: "Test a disk and record it as this cluster's", Args: cobra.ExactArgs(1), ValidArgsFunction: completeDisks,
		Long: `enrol has a node make the self-test of a disk (see 'skein disk test') and records the verdict. Volumes are made on
disks that are fast-fenced. What is on the disk is left alone. The disk must not be in use, by any machine.`,
		Example: "  skein disk enrol naa.600140500000000000000000000000a1 --alias db",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := confirm(cmd, fmt.Sprintf("Reservations of %s are tested: whoever uses this disk loses it meanwhile.", args[0]), args[0]); err != nil {
					return err
				}
			}
			return testOnNode(cmd.Context(), cmd, node, args[0], req)
		}}
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for the disk's name again")
	cmd.Flags().StringVar(&req.Alias, "alias", "", "a name for people")
	cmd.Flags().BoolVar(&req.TakeKeysAway, "take-keys-away", false, "first clear all registrations on the disk, whosoever they are: their owners lose it")
	return cmd
}

// confirm has the operator type a name again before something that cannot be undone.
func confirm(cmd *cobra.Command, what, name string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s Type %s again to go on: ", what, name)
	line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	if strings.TrimSpace(line) != name {
		return errors.Join(fmt.Errorf("nothing was done: %q is not %q", strings.TrimSpace(line), name), ignoreEOF(err))
	}
	return nil
}

func volumeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "File systems that move with their service",
		Long: `A volume is a file system on a disk that all nodes see. It belongs to one service at a time, and moves with it: the
disk's reservation keeps every other node from writing. In a Compose file:

  services:
    db:
      image: postgres
      volumes: ["data:/var/lib/postgresql"]
  volumes:
    data: {driver: skein, name: pgdata}`,
		Example: "  skein volume create pgdata --disk db\n  skein volume ls"}
	cmd.AddCommand(volumeCreateCommand(), volumeLsCommand(), volumeShowCommand(), volumeGrowCommand(), volumeRmCommand())
	return cmd
}

func volumeCreateCommand() *cobra.Command {
	var node, size string
	var yes bool
	var req api.VolumeRequest
	cmd := &cobra.Command{Use: "create NAME --disk DISK", Short: "Make a file system on an enrolled disk", Args: cobra.ExactArgs(1),
		Long: `create makes a file system on the whole of an enrolled, fast-fenced disk. A disk that holds anything is refused and
left untouched, unless --overwrite names what is on it.`,
		Example: "  skein volume create pgdata --disk db\n  skein volume create pgdata --disk db --fs xfs\n  skein volume create pgdata --disk db --overwrite ext4",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			if req.Disk == "" {
				return &usageError{errors.New("on which disk? give it with --disk; 'skein disk ls' lists them")}
			}
			if size != "" {
				n, err := units.RAMInBytes(size)
				if err != nil || n <= 0 {
					return &usageError{fmt.Errorf("size %q: write it like 512M or 10G", size)}
				}
				req.Size = n
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			d, err := findDisk(cmd.Context(), c, req.Disk)
			if err != nil {
				return err
			}
			if node, err = seer(&d, node); err != nil {
				return err
			}
			if req.Overwrite != "" && !yes {
				if err := confirm(cmd, fmt.Sprintf("What is on disk %s (%s) will be destroyed.", d.WWN, req.Overwrite), req.Disk); err != nil {
					return err
				}
			}
			v, err := c.CreateVolume(cmd.Context(), node, req)
			if err != nil {
				return err
			}
			return show(cmd, v, func(t *table) {
				t.row(fmt.Sprintf("volume %s: %s of %s on disk %s", v.Name, v.FS, bytesText(v.Size), d.Name()))
			})
		}}
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	fl := cmd.Flags()
	fl.StringVar(&req.Disk, "disk", "", "WWN or alias")
	fl.StringVar(&req.FS, "fs", cluster.Ext4, "ext4 or xfs")
	fl.StringVar(&size, "size", "", "as large as the disk, which is the default: a volume takes a whole disk")
	fl.StringVar(&req.Overwrite, "overwrite", "", "destroy what is on the disk, if it is this kind")
	fl.BoolVar(&yes, "yes", false, "do not ask for the disk's name again")
	_ = cmd.RegisterFlagCompletionFunc("disk", func(cmd *cobra.Command, _ []string, text string) ([]string, cobra.ShellCompDirective) {
		return completeDisks(cmd, nil, text)
	})
	_ = cmd.RegisterFlagCompletionFunc("fs", cobra.FixedCompletions([]string{cluster.Ext4, cluster.XFS}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func volumeLsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "The volumes, and who has them", Args: cobra.NoArgs, Example: "  skein volume ls\n  skein volume ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("NAME", "DISK", "FS", "SIZE", "SERVICE", "NODE", "STATE")
				for _, v := range list {
					state := string(v.State)
					if !v.Ready {
						state = "not made"
					}
					disk := v.Alias
					if disk == "" {
						disk = v.Disk
					}
					t.row(v.Name, disk, v.FS, bytesText(v.Size), orDash(v.User), orDash(v.Node), orDash(state))
				}
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func findVolume(cmd *cobra.Command, name string) (*api.Client, api.VolumeStatus, error) {
	c, err := client(cmd)
	if err != nil {
		return nil, api.VolumeStatus{}, err
	}
	list, err := c.Volumes(cmd.Context())
	if err != nil {
		return nil, api.VolumeStatus{}, err
	}
	i := slices.IndexFunc(list, func(v api.VolumeStatus) bool { return v.Name == name })
	if i < 0 {
		return nil, api.VolumeStatus{}, fmt.Errorf("there is no volume %q; 'skein volume ls' lists them", name)
	}
	return c, list[i], nil
}

func volumeShowCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "A volume: disk, file system, service and where it runs", Args: cobra.ExactArgs(1), ValidArgsFunction: completeVolumes, Example: "  skein volume show pgdata",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, v, err := findVolume(cmd, args[0])
			if err != nil {
				return err
			}
			return show(cmd, v, func(t *table) {
				t.row("volume", v.Name)
				t.row("disk", strings.TrimSpace(v.Disk+" "+v.Alias))
				t.row("file system", v.FS+" "+v.UUID)
				t.row("size", bytesText(v.Size))
				t.row("made", fmt.Sprintf("%v, by %s, %s", v.Ready, v.CreatedBy, v.Created.Format(time.RFC3339)))
				t.row("service", orDash(v.User))
				t.row("node", orDash(v.Node))
				t.row("state", strings.TrimSpace(orDash(string(v.State))+" "+v.Why))
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func volumeGrowCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "grow NAME", Short: "Make a volume as large as its disk has become, while it is in use", Args: cobra.ExactArgs(1), ValidArgsFunction: completeVolumes,
		Long: "grow makes the file system as large as its disk. Enlarge the LUN at the target first. The volume's service must run.", Example: "  skein volume grow pgdata",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, v, err := findVolume(cmd, args[0])
			if err != nil {
				return err
			}
			if v.Node == "" {
				return fmt.Errorf("volume %s is mounted nowhere: it grows where its service runs; start the service", v.Name)
			}
			now, err := c.GrowVolume(cmd.Context(), v.Node, v.Name)
			if err != nil {
				return err
			}
			return show(cmd, now, func(t *table) {
				t.row(fmt.Sprintf("volume %s: %s, was %s", now.Name, bytesText(now.Size), bytesText(v.Size)))
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func volumeRmCommand() *cobra.Command {
	return &cobra.Command{Use: "rm NAME", Short: "Forget a volume; what it held stays on its disk", Args: cobra.ExactArgs(1), ValidArgsFunction: completeVolumes,
		Long: "rm takes a volume that no service has out of the ledger. Its data is not touched: a new volume on the disk needs --overwrite.", Example: "  skein volume rm pgdata",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if err := c.RemoveVolume(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: forgotten; its data is still on the disk\n", args[0])
			return nil
		}}
}
