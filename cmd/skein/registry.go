package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
)

func registryCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "registry", Short: "The cluster's own registry, and registries that images are fetched from",
		Long: `Every node answers the OCI distribution specification on port 7702: docker, podman, skopeo and crane push to the
cluster and pull from it. An image that was pushed as NODE:7702/demo/web:1 is deployed as demo/web:1. Users of that
registry are made with 'registry user'; its certificate is the cluster's, 'registry ca' prints its CA.

'registry login' and 'registry mirror' concern registries outside, from which 'skein image pull' fetches.`,
		Example: `  skein registry user add ann | docker login --username ann --password-stdin n1:7702
  pass registry | skein registry login registry.example.org --user ann --password-file -
  skein registry ls`}
	ls := &cobra.Command{
		Use: "ls", Short: "Registries outside: who logs in there, and their mirrors", Args: cobra.NoArgs,
		Example: "  skein registry ls\n  skein registry ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.RegistryHosts(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("REGISTRY", "USER", "MIRRORS")
				for _, h := range list {
					t.row(h.Host, orDash(h.User), joined(h.Mirrors))
				}
			})
		},
	}
	ca := &cobra.Command{
		Use: "ca", Short: "The certificate that clients of the cluster's registry need", Args: cobra.NoArgs,
		Example: `  skein registry ca > /etc/docker/certs.d/n1:7702/ca.crt
  skein registry ca > ca/ca.crt && skopeo copy --dest-cert-dir ca oci-archive:web.tar docker://n1:7702/demo/web:1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cc, err := chosenContext(cmd)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), cc.CA)
			return err
		},
	}
	logout := &cobra.Command{
		Use: "logout HOST", Short: "Forget a registry outside, with its password and mirrors", Args: cobra.ExactArgs(1),
		Example: "  skein registry logout registry.example.org",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return c.RemoveRegistryHost(cmd.Context(), args[0])
		},
	}
	addOutputFlag(ls)
	cmd.AddCommand(registryUserCommand(), registryLoginCommand(), registryMirrorCommand(), ls, logout, ca)
	return cmd
}

func registryUserCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "user", Short: "Who may use the cluster's own registry",
		Example: "  skein registry user add ci --pull-only\n  skein registry user ls"}
	var pullOnly bool
	add := &cobra.Command{
		Use: "add NAME", Short: "Make a user, and print the password that the cluster made for him", Args: cobra.ExactArgs(1),
		Long: `add makes a user and prints his password, alone on a line: it is shown once, and the cluster keeps only a hash
of it.`,
		Example: "  skein registry user add ann | docker login --username ann --password-stdin n1:7702\n  skein registry user add ci --pull-only",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			u, err := c.AddRegistryUser(cmd.Context(), args[0], !pullOnly)
			if err != nil {
				return err
			}
			return show(cmd, u, func(t *table) { t.row(u.Password) })
		},
	}
	add.Flags().BoolVar(&pullOnly, "pull-only", false, "he may not push or delete")
	ls := &cobra.Command{
		Use: "ls", Short: "List the users", Args: cobra.NoArgs, Example: "  skein registry user ls -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			list, err := c.RegistryUsers(cmd.Context())
			if err != nil {
				return err
			}
			return show(cmd, list, func(t *table) {
				t.row("USER", "MAY", "MADE BY", "WHEN")
				for _, u := range list {
					may := "pull"
					if u.Push {
						may = "push, pull"
					}
					t.row(u.Name, may, u.By, u.Created.Local().Format(time.DateTime))
				}
			})
		},
	}
	rm := &cobra.Command{
		Use: "rm NAME", Short: "End a user's access, at once and on every node", Args: cobra.ExactArgs(1), Example: "  skein registry user rm ann",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return c.RemoveRegistryUser(cmd.Context(), args[0])
		},
	}
	addOutputFlag(add)
	addOutputFlag(ls)
	cmd.AddCommand(add, ls, rm)
	return cmd
}

func registryLoginCommand() *cobra.Command {
	var req api.RegistryHostRequest
	var passwordFile string
	cmd := &cobra.Command{
		Use: "login HOST", Short: "Tell the cluster how to log in at a registry outside", Args: cobra.ExactArgs(1),
		Long: `login keeps user and password of a registry among the cluster's secrets: no command shows the password, but every
node can read it. It is not tried before an image is fetched. docker.io is Docker's.`,
		Example: "  pass registry | skein registry login registry.example.org --user ann --password-file -\n  skein registry login docker.io --user ann --password-file token",
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.User == "" || passwordFile == "" {
				return &usageError{errors.New("--user and --password-file are needed; the file is - for the standard input")}
			}
			var err error
			if req.Password, err = readSecret(cmd, passwordFile); err != nil {
				return err
			}
			req.Host, req.Login = args[0], true
			c, err := client(cmd)
			if err != nil {
				return err
			}
			h, err := c.SetRegistryHost(cmd.Context(), req)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "images of %s are fetched as %s\n", h.Host, h.User)
			return nil
		},
	}
	cmd.Flags().StringVar(&req.User, "user", "", "user at the registry")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "file with the password or token, - for the standard input")
	return cmd
}

func registryMirrorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mirror HOST [MIRROR...]", Short: "Say which mirrors are asked before a registry outside; none: no mirror any more", Args: cobra.MinimumNArgs(1),
		Long: `mirror sets the registries that are asked, in order, before the one that an image's name states. They must have the
same repositories. For their own credentials use 'registry login' with the mirror's name.`,
		Example: "  skein registry mirror docker.io mirror.example.org:5000",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			h, err := c.SetRegistryHost(cmd.Context(), api.RegistryHostRequest{RegistryHost: cluster.RegistryHost{Host: args[0], Mirrors: args[1:]}, SetMirrors: true})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "before %s these are asked: %s\n", h.Host, joined(h.Mirrors))
			return nil
		},
	}
}

// imageRemoveCommands are the verbs by which images go.
func imageRemoveCommands() []*cobra.Command {
	rm := &cobra.Command{
		Use: "rm REFERENCE...", Short: "Forget images that nothing is made of", Args: cobra.MinimumNArgs(1),
		Long: `rm forgets names of images. What a service, an instance or a job is made of stays, and rm says by what. Nodes
free the memory within a few minutes: what other images need of it stays.`,
		Example: "  skein image rm demo/web:1",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			all := api.Pruned{}
			for _, ref := range args {
				p, err := c.RemoveImage(cmd.Context(), ref)
				if err != nil {
					return err
				}
				all.Removed = append(all.Removed, p.Removed...)
			}
			return show(cmd, all, func(t *table) { drawRemoved(t, all) })
		},
	}
	var everything, dry bool
	prune := &cobra.Command{
		Use: "prune", Short: "Forget images that have no name any more, or all that nothing is made of", Args: cobra.NoArgs,
		Long: `prune forgets images that were replaced by a newer one under their name, or pushed by digest, an hour ago or more,
and that no service, instance or job is made of. With --all it forgets named ones too. When a node's memory for images
is nearly full (below 10 % free), the cluster does this by itself, and removes images that their registry still has,
the longest unused first; what was loaded or pushed under a name goes only by your command.`,
		Example: "  skein image prune --dry-run\n  skein image prune --all -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := client(cmd)
			if err != nil {
				return err
			}
			p, err := c.PruneImages(cmd.Context(), everything, dry)
			if err != nil {
				return err
			}
			return show(cmd, p, func(t *table) {
				drawRemoved(t, p)
				t.blank()
				verb := "freed on each node"
				if dry {
					verb = "would be free on each node"
				}
				t.row(fmt.Sprintf("%s %s", bytesText(p.Frees), verb))
			})
		},
	}
	prune.Flags().BoolVar(&everything, "all", false, "named images too")
	prune.Flags().BoolVar(&dry, "dry-run", false, "only say what would go")
	addOutputFlag(rm)
	addOutputFlag(prune)
	return []*cobra.Command{rm, prune}
}

func drawRemoved(t *table, p api.Pruned) {
	t.row("IMAGE", "DIGEST", "WHY")
	for _, r := range p.Removed {
		t.row(r.Ref, fmt.Sprintf("%.19s", r.Digest), r.Why)
	}
}
