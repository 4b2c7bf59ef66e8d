package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/storage/shared"
)

func sharedCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "shared", Short: "File systems that all nodes mount at once",
		Long: `A shared file system is on one disk that all nodes see, and every node has it mounted at /shared/NAME: what one writes
the others read. When a node dies the others wait until it is known to write no more, and go on. In a Compose file:

  services:
    web:
      image: nginx
      deploy: {replicas: 3}
      volumes: ["files:/srv/files"]
  volumes:
    files: {driver: skein-shared}

The folder STACK_files of the file system is then in every instance. Databases belong on a volume ('skein volume').`,
		Example: "  skein shared create files --disk big\n  skein shared ls\n  skein shared show files"}
	cmd.AddCommand(sharedCreateCommand(), sharedLsCommand(), sharedShowCommand(), sharedGrowCommand(), sharedOfflineCommand(true), sharedOfflineCommand(false), sharedCheckCommand(), sharedRmCommand())
	return cmd
}

func completeShared(cmd *cobra.Command, args []string, to string) ([]string, cobra.ShellCompDirective) {
	return completeFrom(func(ctx context.Context, c *api.Client) (names []string, err error) {
		list, err := c.Shared(ctx)
		for i := range list {
			names = append(names, list[i].Name)
		}
		return names, err
	})(cmd, args, to)
}

func findShared(ctx context.Context, c *api.Client, name string) (*api.SharedStatus, error) {
	list, err := c.Shared(ctx)
	if err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].Name == name {
			return &list[i], nil
		}
	}
	return nil, fmt.Errorf("there is no shared file system %q; 'skein shared ls' lists them", name)
}

func sharedCreateCommand() *cobra.Command {
	var node string
	var yes bool
	var wait time.Duration
	var req api.SharedRequest
	cmd := &cobra.Command{Use: "create NAME --disk DISK", Short: "Make a shared file system on an enrolled disk", Args: cobra.ExactArgs(1),
		Long: `create makes a GFS2 file system on the whole of an enrolled disk, and waits until all nodes have it mounted. A disk that
holds anything is refused and left untouched, unless --overwrite names what is on it. Each node that uses it at once needs
a journal of it; more can be had than nodes there are, for those to come.`,
		Example: "  skein shared create files --disk big\n  skein shared create files --disk big --journals 8",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			if req.Disk == "" {
				return &usageError{errors.New("on which disk? give it with --disk; 'skein disk ls' lists them")}
			}
			if req.Journals < 0 || req.Journals > shared.MaxMembers {
				return &usageError{fmt.Errorf("--journals %d: 1 to %d, one for each node", req.Journals, shared.MaxMembers)}
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
			rec, err := c.CreateShared(cmd.Context(), node, req)
			if err != nil {
				return err
			}
			if wait > 0 {
				if err := awaitShared(cmd, c, rec.Name, wait); err != nil {
					return err
				}
			}
			return show(cmd, rec, func(t *table) {
				t.row(fmt.Sprintf("shared file system %s: on disk %s, %d journals, at /shared/%s on every node", rec.Name, d.Name(), rec.Journals, rec.Name))
			})
		}}
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	fl := cmd.Flags()
	fl.StringVar(&req.Disk, "disk", "", "the disk, by WWN or alias")
	_ = cmd.RegisterFlagCompletionFunc("disk", completeDisks)
	fl.IntVar(&req.Journals, "journals", 0, "for how many nodes at once (default: twice as many as there are)")
	fl.StringVar(&req.Overwrite, "overwrite", "", "destroy what is on the disk, which this names: ext4, gfs2, ...")
	fl.BoolVar(&yes, "yes", false, "do not ask for the disk's name again")
	fl.DurationVar(&wait, "wait", 2*time.Minute, "how long to wait until all nodes have it mounted; 0: do not")
	return cmd
}

// awaitShared waits until every node that is online uses the file system.
func awaitShared(cmd *cobra.Command, c *api.Client, name string, limit time.Duration) error {
	said := ""
	for deadline := time.Now().Add(limit); ; {
		s, err := findShared(cmd.Context(), c, name)
		if err != nil {
			return err
		}
		st, err := c.Status(cmd.Context())
		if err != nil {
			return err
		}
		missing := ""
		for _, n := range st.Nodes {
			if n.State == "online" && !slices.ContainsFunc(s.Membership.Members, func(m shared.Member) bool { return m.Node == n.Name }) {
				missing = n.Name
			}
		}
		if missing == "" {
			return nil
		}
		if said != missing {
			said = missing
			fmt.Fprintf(cmd.ErrOrStderr(), "waiting for %s to mount %s\n", missing, name)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has not mounted %s in %s; 'skein shared show %s' says what it waits for", missing, name, limit, name)
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func sharedLsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ls", Short: "List the shared file systems", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.Shared(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("NAME", "DISK", "SIZE", "JOURNALS", "STATE", "USED BY", "NODES")
				for i := range list {
					s := &list[i]
					var nodes []string
					for _, m := range s.Membership.Members {
						nodes = append(nodes, m.Node)
					}
					t.row(s.Name, s.Disk, bytesText(s.Size), s.Journals, sharedState(s), orDash(s.User), orDash(joined(nodes)))
				}
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func sharedState(s *api.SharedStatus) string {
	switch {
	case s.Removing:
		return "being removed"
	case !s.Ready:
		return "being made"
	case s.Checked != nil:
		return "being checked by " + s.Checked.Node
	case s.Offline && len(s.Membership.Members) > 0:
		return "going offline"
	case s.Offline:
		return "offline"
	}
	for _, r := range s.Reports {
		if s.Membership.Has(r.Member) && r.Broken != "" {
			return "broken on " + r.Member.Node
		}
		if s.Membership.Has(r.Member) && r.Started < s.Membership.Generation {
			return "members change"
		}
	}
	return "ready"
}

// sharedShown is what show has of one: the ledger's and each node's word.
type sharedShown struct {
	api.SharedStatus
	Nodes   map[string]api.NodeShared `json:"nodes"`
	Unasked map[string]string         `json:"unasked,omitempty"` // nodes that did not answer, and why
}

func sharedShowCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "A shared file system: its members, and how it is on each node", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeShared, Example: "  skein shared show files",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			s, err := findShared(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			st, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			out := sharedShown{SharedStatus: *s, Nodes: map[string]api.NodeShared{}, Unasked: map[string]string{}}
			for _, n := range st.Nodes {
				of, err := c.NodeShared(cmd.Context(), n.Name)
				if err != nil {
					out.Unasked[n.Name] = err.Error()
				} else if u, ok := of[s.Name]; ok {
					out.Nodes[n.Name] = u
				}
			}
			return show(cmd, out, func(t *table) {
				t.row("shared", s.Name)
				t.row("disk", s.Disk)
				t.row("size", bytesText(s.Size))
				t.row("journals", s.Journals)
				t.row("state", sharedState(s))
				t.row("members", s.Membership.String())
				t.row("used by", orDash(s.User))
				t.blank()
				t.row("NODE", "STATE", "JOURNAL", "SIZE", "FREE", "WAITS FOR")
				for _, n := range st.Nodes {
					u, ok := out.Nodes[n.Name]
					switch {
					case out.Unasked[n.Name] != "":
						t.row(n.Name, "not asked", "-", "-", "-", out.Unasked[n.Name])
					case ok && u.Kernel.Mounted:
						t.row(n.Name, nodeShared(u), u.Kernel.Journal, bytesText(u.Size), bytesText(u.Free), orDash(u.Waiting))
					case ok:
						t.row(n.Name, nodeShared(u), "-", "-", "-", orDash(u.Waiting))
					}
				}
			})
		}}
	addOutputFlag(cmd)
	return cmd
}

func nodeShared(u api.NodeShared) string {
	switch {
	case u.Kernel.Withdrawn:
		return "withdrawn"
	case u.Kernel.Blocked:
		return "waits for a journal's replay"
	case u.Kernel.Mounted:
		return "mounted"
	}
	return string(u.State)
}

func sharedGrowCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{Use: "grow NAME", Short: "Make a shared file system as large as its LUN has become", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeShared, Long: "grow does so while all nodes use it. Each node must see the LUN's new size: enlarge it at the array first.",
		Example: "  skein shared grow files",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			s, err := findShared(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if node == "" {
				if len(s.Membership.Members) == 0 {
					return fmt.Errorf("no node has %s mounted", s.Name)
				}
				node = s.Membership.Members[0].Node
			}
			size, err := c.GrowShared(cmd.Context(), node, s.Name)
			if err != nil {
				return err
			}
			return show(cmd, map[string]int64{"size_bytes": size}, func(t *table) {
				t.row(fmt.Sprintf("shared file system %s: %s", s.Name, bytesText(size)))
			})
		}}
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	return cmd
}

func sharedRmCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{Use: "rm NAME", Short: "Unmount a shared file system on all nodes and forget it", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeShared, Long: "rm is refused while a service has a folder there. What it holds stays on the disk until something else is made there.",
		Example: "  skein shared rm files",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if _, err := findShared(cmd.Context(), c, args[0]); err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd, fmt.Sprintf("Shared file system %s is unmounted on all nodes.", args[0]), args[0]); err != nil {
					return err
				}
			}
			if err := c.RemoveShared(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "shared file system %s is being unmounted; it is forgotten when no node has it any more\n", args[0])
			return nil
		}}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask for its name again")
	return cmd
}

func sharedOfflineCommand(offline bool) *cobra.Command {
	use, short, long := "online NAME", "Have all nodes mount a shared file system again", "online ends what 'skein shared offline' began."
	if offline {
		use, short, long = "offline NAME", "Unmount a shared file system on all nodes", "offline is refused while a service has a folder there. What it holds stays; 'skein shared online' has it mounted again."
	}
	return &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1), ValidArgsFunction: completeShared,
		Example: "  skein shared offline files\n  skein shared check files\n  skein shared online files",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			if err := c.SetSharedOffline(cmd.Context(), args[0], offline); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "shared file system %s: 'skein shared ls' shows how far the nodes are\n", args[0])
			return nil
		}}
}

func sharedCheckCommand() *cobra.Command {
	var node string
	var repair bool
	cmd := &cobra.Command{Use: "check NAME", Short: "Check a shared file system that is offline (fsck.gfs2)", Args: cobra.ExactArgs(1), ValidArgsFunction: completeShared,
		Long: `check looks for damage, and with --repair mends it. The file system must be offline. Its end is 0 if the file system is
clean, or was repaired, or only its counters of used space are off ("miscounted"), which a repair mends.`,
		Example: "  skein shared check files\n  skein shared check files --repair",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			s, err := findShared(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			d, err := findDisk(cmd.Context(), c, s.Disk)
			if err != nil {
				return err
			}
			if node, err = seer(&d, node); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s checks %s\n", node, s.Name)
			found, err := c.CheckShared(cmd.Context(), node, s.Name, repair)
			if err != nil {
				return err
			}
			if err := show(cmd, found, func(t *table) {
				t.row(fmt.Sprintf("shared file system %s: %s", s.Name, found.Finding))
				if found.Finding != shared.Clean {
					t.row(found.Output)
				}
			}); err != nil {
				return err
			}
			if found.Finding == shared.Damaged {
				return &exitError{exitFailed}
			}
			return nil
		}}
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	cmd.Flags().BoolVar(&repair, "repair", false, "mend what is found")
	return cmd
}
