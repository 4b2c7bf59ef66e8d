package fence

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/bougou/go-ipmi"
)

// ipmiLanplus speaks IPMI 2.0 over RMCP+. The library parses a stranger's bytes: a panic of it is an error.
func ipmiLanplus(ctx context.Context, w Way, do Action, still func(context.Context) error) (p Power, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, err = Unknown, fmt.Errorf("its answer broke the IPMI library: %v", r)
		}
	}()
	host, portText, err := net.SplitHostPort(w.Address)
	if err != nil {
		return Unknown, err
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return Unknown, err
	}
	c, err := ipmi.NewClient(host, port, w.User, w.Password)
	if err != nil {
		return Unknown, err
	}
	within := time.Second
	if end, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(end))
	}
	c.WithTimeout(within).WithRetry(1)
	if err := c.Connect(ctx); err != nil {
		return Unknown, fmt.Errorf("no session: %w", err)
	}
	defer func() { _ = c.Close(ctx) }() // it expires by itself
	if do != Read {
		if err := still(ctx); err != nil {
			return Unknown, fmt.Errorf("the order was not given: %w", err)
		}
	}
	switch do {
	case Read:
		st, err := c.GetChassisStatus(ctx)
		if err != nil {
			return Unknown, fmt.Errorf("refused to tell the power: %w", err)
		}
		if st.PowerIsOn {
			return On, nil
		}
		return Off, nil
	case Cut:
		_, err = c.ChassisControl(ctx, ipmi.ChassisControlPowerDown)
	case SwitchOn:
		_, err = c.ChassisControl(ctx, ipmi.ChassisControlPowerUp)
	default:
		return Unknown, fmt.Errorf("action %q is not known", do)
	}
	if err != nil {
		return Unknown, fmt.Errorf("refused the order: %w", err)
	}
	return Unknown, nil
}
