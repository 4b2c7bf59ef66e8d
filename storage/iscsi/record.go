package iscsi

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What a session is told of time. A path that is dead has to be seen so by the map above it within seconds: a ping each
// second, 2 s for its answer, and 1 s more in which the kernel hopes for the connection to come back before it gives
// the path's commands to the map. The longest write across a cut portal was 4.1 s with these.
const (
	PingInterval    = 1 * time.Second // between NOP-outs while nothing else arrives
	PingTimeout     = 2 * time.Second // for the answer; then the connection is given up
	RecoveryTimeout = 1 * time.Second // replacement_timeout, recovery_tmo in sysfs: then commands of the path fail
	LoginTimeout    = 5 * time.Second // for one try; Reconciler sees to the next
	LogoutTimeout   = 5 * time.Second
	// Error handling of a command that gets no answer on a connection that is well (a LUN that hangs).
	AbortTimeout       = 5 * time.Second
	LUNResetTimeout    = 10 * time.Second
	TargetResetTimeout = 10 * time.Second
	HostResetTimeout   = 20 * time.Second
)

// maxCHAP is the longest name or secret that iscsid keeps, bytes.
const maxCHAP = 255

// CHAP is how the two sides prove who they are (RFC 7143, 12.1.3). It prints without secrets.
type CHAP struct {
	User, Secret string // of this machine
	// Of the target, which proves itself with them; both empty: it need not.
	TargetUser, TargetSecret string
}

func (c CHAP) String() string {
	if c.TargetUser != "" {
		return "CHAP as " + c.User + ", the target as " + c.TargetUser
	}
	return "CHAP as " + c.User
}

// GoString keeps %#v from the secrets.
func (c CHAP) GoString() string { return c.String() }

// Check tells what iscsid's files cannot carry: they have a line for each value and trim it. No secret is quoted.
func (c CHAP) Check() error {
	if c.User == "" || c.Secret == "" {
		return fmt.Errorf("CHAP needs a user and a secret")
	}
	if (c.TargetUser == "") != (c.TargetSecret == "") {
		return fmt.Errorf("CHAP of user %q: the target's user and the target's secret belong together", c.User)
	}
	if c.TargetSecret == c.Secret {
		return fmt.Errorf("CHAP of user %q: both sides have the same secret, which RFC 7143 (12.1.3) forbids", c.User)
	}
	for _, v := range []struct{ what, value string }{
		{"user", c.User}, {"secret", c.Secret}, {"target's user", c.TargetUser}, {"target's secret", c.TargetSecret},
	} {
		odd := strings.ContainsFunc(v.value, func(r rune) bool { return r < ' ' || r > '~' })
		if odd || len(v.value) > maxCHAP || strings.Trim(v.value, " ") != v.value || strings.HasPrefix(v.value, "=") || strings.HasPrefix(v.value, `"`) {
			return fmt.Errorf("CHAP of user %q: the %s has a character that iscsid's files cannot carry, or more than %d", c.User, v.what, maxCHAP)
		}
	}
	return nil
}

// Want is a portal to be logged in to. CHAP is nil for none.
type Want struct {
	Portal
	CHAP *CHAP
}

// Check tells why a login cannot even be tried: target and address become the name of a folder and of a file.
func (w Want) Check() error {
	switch {
	case !w.Addr.IsValid() || w.Addr.Port() == 0:
		return fmt.Errorf("target %q: %s is no address of a portal", w.Target, w.Addr)
	case w.Target == "" || len(w.Target) > maxName || strings.ContainsFunc(w.Target, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' }) || w.Target[0] == '.':
		return fmt.Errorf("%q is not an iSCSI name", w.Target)
	case w.CHAP != nil:
		if err := w.CHAP.Check(); err != nil {
			return fmt.Errorf("%s: %w", w.Portal, err)
		}
	}
	return nil
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// defaults are iscsid's settings for all sessions, in iscsid.conf and again in each record: a record does not take
// over what the file says later.
func defaults() [][2]string {
	return [][2]string{
		{"node.startup", "manual"},
		{"node.leading_login", "No"},
		{"node.session.timeo.replacement_timeout", seconds(RecoveryTimeout)},
		{"node.session.err_timeo.abort_timeout", seconds(AbortTimeout)},
		{"node.session.err_timeo.lu_reset_timeout", seconds(LUNResetTimeout)},
		{"node.session.err_timeo.tgt_reset_timeout", seconds(TargetResetTimeout)},
		{"node.session.err_timeo.host_reset_timeout", seconds(HostResetTimeout)},
		// No more tries than one: iscsid's default of 8 would keep a portal that is down for two minutes.
		{"node.session.initial_login_retry_max", "1"},
		{"node.session.reopen_max", "0"}, // a session that was there is connected again without end
		{"node.session.cmds_max", "128"},
		{"node.session.queue_depth", "32"},
		{"node.session.nr_sessions", "1"},
		{"node.session.scan", "manual"}, // the Initiator scans, and knows when that is done
		{"node.session.iscsi.InitialR2T", "No"},
		{"node.session.iscsi.ImmediateData", "Yes"},
		{"node.session.iscsi.FirstBurstLength", "262144"},
		{"node.session.iscsi.MaxBurstLength", "16776192"},
		{"node.session.iscsi.FastAbort", "Yes"},
		{"node.conn[0].timeo.login_timeout", seconds(LoginTimeout)},
		{"node.conn[0].timeo.logout_timeout", seconds(LogoutTimeout)},
		{"node.conn[0].timeo.noop_out_interval", seconds(PingInterval)},
		{"node.conn[0].timeo.noop_out_timeout", seconds(PingTimeout)},
		{"node.conn[0].iscsi.MaxRecvDataSegmentLength", "262144"},
	}
}

func lines(pairs [][2]string) string {
	var b strings.Builder
	for _, p := range pairs {
		b.WriteString(p[0] + " = " + p[1] + "\n")
	}
	return b.String()
}

// configText is iscsid.conf. It has no iscsid.startup: iscsiadm must not try to start an iscsid of its own.
func configText() string {
	return lines(append(defaults(),
		[2]string{"discovery.sendtargets.timeo.login_timeout", seconds(LoginTimeout)},
		[2]string{"discovery.sendtargets.reopen_max", "1"},
	))
}

// recordPath is where open-iscsi 2.1 looks for a portal's record whose portal group it does not know.
func recordPath(dir string, p Portal) string {
	return filepath.Join(dir, "nodes", p.Target, p.Addr.Addr().String()+","+strconv.Itoa(int(p.Addr.Port())))
}

// recordText is the record: the only place where iscsid learns of secrets.
func recordText(w Want) string {
	pairs := append([][2]string{
		{"node.name", w.Target},
		{"node.tpgt", "-1"}, // not known: SendTargets was not asked
		{"node.discovery_type", "static"},
		{"iface.iscsi_ifacename", "default"},
		{"iface.transport_name", "tcp"},
		{"node.conn[0].address", w.Addr.Addr().String()},
		{"node.conn[0].port", strconv.Itoa(int(w.Addr.Port()))},
	}, defaults()...)
	if c := w.CHAP; c == nil {
		pairs = append(pairs, [2]string{"node.session.auth.authmethod", "None"})
	} else {
		pairs = append(pairs, [][2]string{{"node.session.auth.authmethod", "CHAP"}, {"node.session.auth.username", c.User}, {"node.session.auth.password", c.Secret}}...)
		if c.TargetUser != "" {
			pairs = append(pairs, [][2]string{{"node.session.auth.username_in", c.TargetUser}, {"node.session.auth.password_in", c.TargetSecret}}...)
		}
	}
	return "# BEGIN RECORD\n" + lines(pairs) + "# END RECORD\n"
}

// InitiatorName is the iSCSI name of a node: the same in each of its boots, and another for each node and cluster. A
// target takes two machines of one name for one that has come back, and ends the session of the first.
func InitiatorName(cluster, node string) (string, error) {
	name := "iqn.2026-01.dev.skein:" + cluster + ":" + node
	if len(name) > maxName || !targetName.MatchString(name) {
		return "", fmt.Errorf("node %q of cluster %q: %s is not an iSCSI name", node, cluster, name)
	}
	return name, nil
}

// portalArgument is a portal as iscsiadm and goiscsi take it.
func portalArgument(p Portal) string {
	return net.JoinHostPort(p.Addr.Addr().String(), strconv.Itoa(int(p.Addr.Port())))
}

// parseDiscovery reads what iscsiadm prints of SendTargets: "ADDRESS:PORT,GROUP NAME" a line, IPv6 in brackets.
func parseDiscovery(out string) ([]Portal, error) {
	var list []Portal
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		at, name, ok := strings.Cut(line, " ")
		at, group, okGroup := strings.Cut(at, ",")
		addr, err := parseAddr(at)
		if _, bad := strconv.ParseInt(group, 10, 32); !ok || !okGroup || bad != nil || err != nil || !targetName.MatchString(name) || len(name) > maxName {
			return nil, fmt.Errorf("the list of targets has the line %q: want ADDRESS:PORT,GROUP NAME", line)
		}
		list = append(list, Portal{name, addr})
	}
	return list, nil
}

// Codes of iscsiadm's (iscsiadm(8), EXIT STATUS; include/iscsi_err.h of open-iscsi 2.1), as an operator needs them.
var meanings = map[int]string{
	2: "there is no such session", 4: "the portal does not answer, or refuses the connection", 5: "the target refused the login",
	6: "the node record cannot be used", 8: "the portal does not answer", 9: "iscsid or the kernel failed",
	10: "the target did not take the logout", 11: "the target does not answer any more", 12: "kernel module iscsi_tcp is not loaded",
	15: "there is a session already", 18: "iscsid went away", 19: "the login failed for good: check the target's name, that this initiator may use it, and the target's own CHAP secret",
	20: "iscsid is not there", 21: "the node record or session is not there", 23: "the SCSI host is not there",
	24: "the target refused the CHAP user or secret, or this initiator's name", 28: "the session is in use",
}

// errorCode finds the code in a line of iscsiadm's such as "initiator reported error (24 - iSCSI login failed due to
// authorization failure)"; its exit status is often that of the whole command only. 0: none.
func errorCode(stderr string) (code int, text string) {
	for line := range strings.Lines(stderr) {
		_, rest, ok := strings.Cut(line, "reported error (")
		number, rest, okNumber := strings.Cut(rest, " - ")
		n, err := strconv.Atoi(number)
		if !ok || !okNumber || err != nil || n <= 0 || n > 255 {
			continue
		}
		return n, strings.TrimRight(strings.TrimSpace(rest), ")")
	}
	return 0, ""
}

// explain makes one clause of how iscsiadm ended. It never has a secret: iscsiadm does not print any.
func explain(exit int, stderr string) string {
	code, text := errorCode(stderr)
	if code == 0 {
		code = exit
	}
	for line := range strings.Lines(stderr) {
		if _, why, ok := strings.Cut(line, "cannot make connection to "); ok { // what the error's number hides
			return fmt.Sprintf("no connection to %s (open-iscsi's error %d)", strings.TrimSpace(why), code)
		}
	}
	if m := meanings[code]; m != "" {
		return fmt.Sprintf("%s (open-iscsi's error %d)", m, code)
	}
	if text == "" { // the last line says most
		for line := range strings.Lines(stderr) {
			text = cmp.Or(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "iscsiadm: ")), text)
		}
	}
	return fmt.Sprintf("open-iscsi's error %d: %s", code, cmp.Or(text, "no reason given"))
}
