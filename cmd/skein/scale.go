package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// parseService reads STACK/SERVICE.
func parseService(text string) (stack, service string, err error) {
	stack, service, ok := strings.Cut(text, "/")
	if !ok || stack == "" || service == "" || strings.Contains(service, "/") {
		return "", "", &usageError{fmt.Errorf("service %q: must be STACK/SERVICE, as 'skein ls' has it", text)}
	}
	return stack, service, nil
}

func scaleCommand() *cobra.Command {
	var detach bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "scale STACK/SERVICE=N...", Short: "Have services have that many instances", Args: cobra.MinimumNArgs(1),
		Long:    "scale changes how many instances services have, until the next deploy of their stack says otherwise.",
		Example: "  skein scale shop/web=5\n  skein scale shop/web=5 shop/worker=0",
		RunE: func(cmd *cobra.Command, args []string) error {
			type order struct {
				stack, service string
				replicas       int
			}
			var orders []order
			names := map[string]bool{}
			for _, a := range args {
				name, number, _ := strings.Cut(a, "=")
				stack, service, err := parseService(name)
				if err != nil {
					return err
				}
				n, err := strconv.Atoi(number)
				if err != nil || n < 0 {
					return &usageError{fmt.Errorf("%q: must be STACK/SERVICE=N, N being 0 or more", a)}
				}
				orders = append(orders, order{stack, service, n})
				names[name] = true
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			for _, o := range orders {
				if err := c.Scale(ctx, o.stack, o.service, o.replicas); err != nil {
					return err
				}
			}
			if detach {
				return nil
			}
			return awaitServices(ctx, c, names, false)
		},
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "do not wait until it is so")
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait until it is so")
	return cmd
}

func rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rollback STACK/SERVICE", Short: "Have a service be again what it was before its newest change", Args: cobra.ExactArgs(1),
		Long: `rollback undoes the newest change of a service, as its rollback_config says how; once more, and it is undone in
turn. 'skein ls' shows how far it is.`,
		Example: "  skein rollback shop/web",
		RunE: func(cmd *cobra.Command, args []string) error {
			stack, service, err := parseService(args[0])
			if err != nil {
				return err
			}
			c, err := client(cmd)
			if err != nil {
				return err
			}
			return c.Rollback(cmd.Context(), stack, service)
		},
	}
}
