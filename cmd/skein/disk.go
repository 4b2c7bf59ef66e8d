package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/storage/reserve"
)

func diskCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "disk", Short: "Disks that several machines see, and their reservations",
		Example: "  skein disk ls\n  skein disk enrol naa.600140500000000000000000000000a1 --alias db\n  skein disk test /dev/sdb /dev/sdc"}
	cmd.AddCommand(diskLsCommand(), diskShowCommand(), diskEnrolCommand(), diskTestCommand(), diskSpeedCommand())
	return cmd
}

// localTests is the cluster's ID in keys of tests by a machine that is no member: what such a test leaves behind
// when it is cut off, the next one knows; a cluster's keys it does not know, and refuses to touch.
const localTests = "skein disk test"

func diskTestCommand() *cobra.Command {
	var yes bool
	var node string
	var o reserve.TestOptions
	var limit time.Duration
	cmd := &cobra.Command{
		Use: "test DISK|DEVICE DEVICE...", Short: "Find out whether a disk can fence: its reservations, through every path",
		Args: cobra.MinimumNArgs(1),
		Long: `test asks a disk for everything that a takeover relies on: that a registration is seen through every path, that
who is not registered cannot write, that a key can be taken away together with what is under way, that
registrations are to outlast the target's power. It says "fast-fenced", or why not.

Of a disk of the cluster, named by WWN or alias, the test is made on a node that sees it, and nothing is recorded:
that is 'skein disk enrol'. Of devices it runs on this machine, as root. Name every path to the disk, two at least: with one path there is nobody
to be refused. The disk must not be in use by any machine. Its last block is written with what it holds; all
else is left alone. A disk on which somebody is registered is refused.`,
		Example: "  skein disk test db\n  skein disk test /dev/sdb /dev/sdc\n  skein disk test --yes /dev/sdb /dev/sdc /dev/sdd /dev/sde",
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				fmt.Fprintf(cmd.ErrOrStderr(), "Reservations of %s are tested: whoever uses this disk loses it meanwhile. Type %s again to go on: ", joined(args), args[0])
				line, err := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
				if strings.TrimSpace(line) != args[0] {
					return errors.Join(fmt.Errorf("nothing was done: %q is not %q", strings.TrimSpace(line), args[0]), ignoreEOF(err))
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			if !strings.HasPrefix(args[0], "/") {
				if len(args) > 1 {
					return &usageError{errors.New("one disk of the cluster, or devices of this machine, which begin with a slash")}
				}
				return testOnNode(ctx, cmd, node, args[0], api.DiskTestRequest{TakeKeysAway: o.TakeAway})
			}
			v, err := testDisk(ctx, o, args)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), v)
			if !v.FastFenced {
				return &exitError{exitFailed}
			}
			return nil
		},
	}
	fl := cmd.Flags()
	addOutputFlag(cmd)
	addNodeFlag(cmd, &node)
	fl.BoolVar(&yes, "yes", false, "do not ask for the device's name again")
	fl.BoolVar(&o.TakeAway, "take-keys-away", false, "first clear all registrations on the disk, whosoever they are: their owners lose it")
	fl.DurationVar(&limit, "timeout", time.Minute, "give up after this time")
	return cmd
}

func testDisk(ctx context.Context, o reserve.TestOptions, names []string) (v reserve.Verdict, err error) {
	codec, err := reserve.NewCodec(localTests)
	if err != nil {
		return v, err
	}
	var devices []*reserve.Device
	var paths []reserve.Nexus
	defer func() {
		for _, d := range devices {
			err = errors.Join(err, d.Close())
		}
	}()
	for i, name := range names {
		for _, before := range names[:i] {
			if before == name {
				return v, &usageError{fmt.Errorf("%s is named twice", name)}
			}
		}
		d, err := reserve.OpenUnused(name)
		if err != nil {
			return v, err
		}
		devices, paths = append(devices, d), append(paths, d)
	}
	if err := reserve.SameDisk(devices...); err != nil {
		return v, err
	}
	return reserve.SelfTest(ctx, codec, o, paths...)
}
