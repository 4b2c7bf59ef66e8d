package fence

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"

	"github.com/skein-os/skein/agent/cluster"
)

// Way is one way to a power controller.
type Way struct {
	Driver      cluster.BMCDriver
	Address     string // host:port
	User        string
	Password    string // a secret: in no error and no log
	Fingerprint string
	System      string
}

func (w Way) String() string { return string(w.Driver) + " at " + w.Address }

// Ways are those to a node's controller, and their names for people.
func Ways(b *cluster.BMC, password string) (ways []Way, names []string) {
	for _, a := range b.Addresses {
		w := Way{b.Driver, a, b.User, password, b.Fingerprint, b.System}
		ways, names = append(ways, w), append(names, w.String())
	}
	return ways, names
}

// Operate does one action over one way. It ends with ctx at the latest. The error names the way's answer,
// never the password.
func Operate(ctx context.Context, w Way, do Action) (Power, error) {
	return OperateIf(ctx, w, do, func(context.Context) error { return nil })
}

// OperateIf is Operate for an order that may be out of date when it is carried out: still is asked when all is
// ready, just before the one message that is the order, and an error of it keeps the order back. It is not asked
// for Read.
func OperateIf(ctx context.Context, w Way, do Action, still func(context.Context) error) (Power, error) {
	var p Power
	var err error
	switch w.Driver {
	case cluster.DriverRedfish:
		p, err = redfish(ctx, w, do, still)
	case cluster.DriverIPMI:
		p, err = ipmiLanplus(ctx, w, do, still)
	default:
		err = fmt.Errorf("there is no driver %q for power controllers; use redfish or ipmi", w.Driver)
	}
	if err != nil {
		err = errors.New(clean(err.Error(), w.Password))
	}
	return p, err
}

// mostText bounds what of a controller's own words gets into an error, in runes.
const mostText = 300

// clean makes a text safe to show: printable, short, without the password, which a controller may echo.
func clean(s, password string) string {
	if password != "" {
		s = strings.ReplaceAll(s, password, "***")
	}
	n := 0
	s = strings.Map(func(r rune) rune {
		switch n++; {
		case n > mostText:
			return -1
		case unicode.IsPrint(r):
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}

// Check tells what is wrong with a controller's record as an operator wrote it, and fills in the default
// port and driver. A fingerprint may have colons, as openssl prints it.
func Check(b *cluster.BMC) error {
	b.Driver = cmp.Or(b.Driver, cluster.DriverRedfish)
	b.After = cmp.Or(b.After, cluster.AfterOn)
	port := "443"
	switch b.Driver {
	case cluster.DriverRedfish:
		b.Fingerprint = strings.ToLower(strings.ReplaceAll(b.Fingerprint, ":", ""))
		if sum, err := hex.DecodeString(b.Fingerprint); err != nil || len(sum) != 32 {
			return errors.New("the fingerprint of the controller's certificate must be a SHA-256 in hex, 64 digits; 'openssl s_client -connect HOST:443 </dev/null | openssl x509 -noout -fingerprint -sha256' prints it")
		}
	case cluster.DriverIPMI:
		port = "623"
		if b.Fingerprint != "" || b.System != "" {
			return errors.New("IPMI has no certificate and one system only: leave out fingerprint and system")
		}
	default:
		return fmt.Errorf("driver %q: must be redfish or ipmi", b.Driver)
	}
	if b.After != cluster.AfterOn && b.After != cluster.AfterOff {
		return fmt.Errorf("after %q: must be on or off", b.After)
	}
	if b.System != "" {
		if _, err := servicePath(b.System); err != nil {
			return fmt.Errorf("system: %w", err)
		}
	}
	if b.User == "" {
		return errors.New("a user of the controller is needed")
	}
	if len(b.Addresses) == 0 || len(b.Addresses) > 8 {
		return fmt.Errorf("%d addresses: a controller needs 1 to 8", len(b.Addresses))
	}
	for i, a := range b.Addresses {
		a = strings.TrimSuffix(strings.TrimPrefix(a, "https://"), "/")
		host, p, err := net.SplitHostPort(a)
		if err != nil {
			host, p = strings.Trim(a, "[]"), port
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if _, bad := netip.ParseAddr(host); err != nil || n == 0 || bad != nil {
			return fmt.Errorf("address %q: must be an IP address, or one with a port, as in 192.0.2.7:443; fencing must not wait for a name server", a)
		}
		b.Addresses[i] = net.JoinHostPort(host, p)
	}
	return nil
}
