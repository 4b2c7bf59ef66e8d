package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/daemon"
	"github.com/skein-os/skein/qemu/target"
)

func labSANCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "san", Short: "The lab's SAN, and what can be broken of it",
		Long: `The SAN is one more machine ('skein lab up --san'): an iSCSI target with portal A on lan0 and portal B on lan1,
which keeps reservations when it loses power. Its power and its cables are those of machine "san":
'skein lab power off san', 'skein lab link san eth0 down', 'skein lab freeze san'.`,
	}
	cmd.AddCommand(labSANShowCommand(), labSANPortalCommand(), labSANSlowCommand(),
		labSANOrderCommand("restart", "Start the target anew; it knows its reservations again", "restart"),
		labSANOrderCommand("lose-reservations", "Start the target anew, and it has forgotten all reservations, as a broken one would", "lose-reservations"))
	return cmd
}

// sanClient speaks to the SAN machine through the lab's proxy.
func sanClient(ctx context.Context, dir string) (*http.Client, error) {
	st, err := daemon.NewClient(dir).State(ctx)
	if err != nil {
		return nil, err
	}
	found := false
	for _, m := range st.Machines {
		found = found || m.SAN
		if m.SAN && m.State == qemu.Off {
			return nil, errors.New("the SAN is off: 'skein lab power on san'; 'skein lab console san' shows what it said last")
		}
	}
	if !found {
		return nil, fmt.Errorf("this lab has no SAN; 'skein lab up --san 3' starts one with a SAN of three disks")
	}
	dial, err := labDialer(strings.TrimPrefix(st.Proxy, "http://"))
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 20 * time.Second}, nil
}

// sanAsk sends an order by whichever network works, and gives the answer.
func sanAsk(ctx context.Context, c *http.Client, method, path string) ([]byte, error) {
	var last error
	for lan := range qemu.LANs {
		req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://%s:%d/%s", qemu.Addr(lan, qemu.SANNumber), target.ControlPort, path), nil)
		if err != nil {
			return nil, err
		}
		resp, err := c.Do(req)
		if err != nil {
			last = err
			continue
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("the SAN says: %s", strings.TrimSpace(string(body)))
		}
		return body, err
	}
	return nil, last
}

func sanStatus(ctx context.Context, c *http.Client) (st target.Status, err error) {
	body, err := sanAsk(ctx, c, http.MethodGet, "")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(body, &st)
}

// waitSAN waits until the SAN answers.
func waitSAN(ctx context.Context, dir string) (target.Status, error) {
	for {
		c, err := sanClient(ctx, dir)
		if err != nil {
			return target.Status{}, err
		}
		st, err := sanStatus(ctx, c)
		if err == nil {
			return st, nil
		}
		select {
		case <-ctx.Done():
			return st, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func labSANShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Disks, portals and kept reservations", Args: cobra.NoArgs,
		Example: "  skein lab san show\n  skein lab san show -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := labDir(cmd)
			if err != nil {
				return err
			}
			c, err := sanClient(cmd.Context(), dir)
			if err != nil {
				return err
			}
			st, err := sanStatus(cmd.Context(), c)
			if err != nil {
				return err
			}
			return show(cmd, st, func(t *table) {
				t.row("TARGET", "PORTALS")
				t.row(st.IQN, strings.Join(st.Portals, ", "))
				t.blank()
				t.row("LUN", "SIZE", "KEPT REGISTRATIONS")
				for _, l := range st.LUNs {
					t.row(l.Number, bytesText(l.Size), l.Saved)
				}
			})
		},
	}
}

func labSANPortalCommand() *cobra.Command {
	var carrier bool
	cmd := &cobra.Command{
		Use: "portal A|B up|down", Short: "Cut a portal off, or put it back", Args: cobra.ExactArgs(2),
		Long: `portal down cuts the SAN's cable to one network: A is on lan0, B on lan1. Nothing passes any more and nobody is
told, as with a switch that hangs; with --carrier the SAN sees its cable pulled.`,
		Example: "  skein lab san portal A down\n  skein lab san portal A up",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("portal", args[0], "A", "B"); err != nil {
				return err
			}
			if err := oneOf("portal", args[1], "up", "down"); err != nil {
				return err
			}
			up := args[1] == "up"
			return labCall(cmd, daemon.Call{Op: daemon.OpLink, Node: qemu.SANName, Interface: map[string]string{"A": "eth0", "B": "eth1"}[args[0]],
				Up: up, Silent: !up && !carrier})
		},
	}
	cmd.Flags().BoolVar(&carrier, "carrier", false, "the SAN sees that its cable is out")
	return cmd
}

func labSANSlowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "slow DELAY", Short: "Delay all that the SAN answers; 0 ends it", Args: cobra.ExactArgs(1),
		Example: "  skein lab san slow 200ms\n  skein lab san slow 0",
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := time.ParseDuration(args[0])
			if err != nil || d < 0 || d > time.Minute {
				return &usageError{fmt.Errorf("delay %q: want 0 to 1m, as in 200ms", args[0])}
			}
			for lan := range qemu.LANs {
				if err := labCall(cmd, daemon.Call{Op: daemon.OpDelay, Node: qemu.SANName, Interface: fmt.Sprintf("eth%d", lan), Directions: []string{"out"}, Delay: d}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func labSANOrderCommand(use, short, path string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs, Example: "  skein lab san " + use,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := labDir(cmd)
			if err != nil {
				return err
			}
			c, err := sanClient(cmd.Context(), dir)
			if err != nil {
				return err
			}
			_, err = sanAsk(cmd.Context(), c, http.MethodPost, path)
			return err
		},
	}
}
