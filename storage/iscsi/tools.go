package iscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"time"

	"github.com/dell/goiscsi"
)

// How long a command may take. iscsid ends a try itself after LoginTimeout; the limits are for what hangs.
const (
	loginLimit    = 30 * time.Second // goiscsi's own
	logoutLimit   = 20 * time.Second
	discoverLimit = 15 * time.Second
)

// tools is what the Initiator needs of an iSCSI implementation. All of it may take until its limit.
type tools interface {
	// login makes a session to the portal, whose record is written.
	login(ctx context.Context, p Portal) error
	// logout ends a session by its number.
	logout(ctx context.Context, id int) error
	// discover asks a portal for its targets (SendTargets).
	discover(ctx context.Context, portal netip.AddrPort) ([]Portal, error)
}

// openISCSI is Debian's open-iscsi, through goiscsi where that can do it. It cannot for:
//   - IPv6 with a port, and targets whose name is no iqn with a colon: it takes them for invalid;
//   - CHAP: it gives the secret to iscsiadm on the command line, where every process sees it; and the settings, one
//     process each. Both are in the record that the Initiator writes;
//   - logout: it has no time limit, and ends all sessions to a portal, where one of two may be meant;
//   - discovery: it overwrites the records of what it finds.
type openISCSI struct {
	iscsiadm string
	dell     interface {
		PerformLogin(goiscsi.ISCSITarget) error
	}
}

func newOpenISCSI() *openISCSI {
	return &openISCSI{"/usr/bin/iscsiadm", goiscsi.NewLinuxISCSI(nil)}
}

// dellTarget are the names that goiscsi takes: its own rule, which is not exported.
var dellTarget = regexp.MustCompile(`^iqn\.\d{4}-\d{2}\.[a-zA-Z0-9.-]+:[^,;*&$|\s]+$`)

func (o *openISCSI) login(ctx context.Context, p Portal) error {
	if !p.Addr.Addr().Is4() || !dellTarget.MatchString(p.Target) {
		err := o.run(ctx, loginLimit, "-m", "node", "-T", p.Target, "-p", portalArgument(p), "--login")
		if f := (*failure)(nil); errors.As(err, &f) && f.code == 15 {
			return nil
		}
		return err
	}
	// It cannot be called off: whoever stops a node does not wait for a portal that does not answer. It ends by its limit.
	done := make(chan error, 1)
	go func() { done <- o.dell.PerformLogin(goiscsi.ISCSITarget{Target: p.Target, Portal: portalArgument(p)}) }()
	select {
	case err := <-done:
		return ended(err, "")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (o *openISCSI) logout(ctx context.Context, id int) error {
	return o.run(ctx, logoutLimit, "-m", "session", "-r", strconv.Itoa(id), "--logout")
}

func (o *openISCSI) discover(ctx context.Context, portal netip.AddrPort) ([]Portal, error) {
	out, err := o.output(ctx, discoverLimit, "-m", "discovery", "-t", "sendtargets", "-o", "nonpersistent", "-p", portalArgument(Portal{Addr: portal}))
	if err != nil {
		return nil, err
	}
	return parseDiscovery(out)
}

func (o *openISCSI) run(ctx context.Context, limit time.Duration, args ...string) error {
	_, err := o.output(ctx, limit, args...)
	return err
}

func (o *openISCSI) output(ctx context.Context, limit time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.iscsiadm, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return "", fmt.Errorf("iscsiadm was ended after %s: %w", limit, context.Cause(ctx))
	}
	return stdout.String(), ended(err, stderr.String())
}

// failure is how iscsiadm ended.
type failure struct {
	code int // its exit status
	text string
}

func (f *failure) Error() string { return f.text }

// ended makes an error of how iscsiadm ended. stderr may also be in err.
func ended(err error, stderr string) error {
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) {
		return err
	}
	if stderr == "" {
		stderr = string(exit.Stderr)
	}
	if !exit.Exited() {
		return &failure{-1, "iscsiadm was killed: " + exit.String()}
	}
	return &failure{exit.ExitCode(), explain(exit.ExitCode(), stderr)}
}
