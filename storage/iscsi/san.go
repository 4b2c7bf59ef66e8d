package iscsi

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// DefaultPort is iSCSI's (RFC 7143, 4.2.7.1).
const DefaultPort = 3260

// Parameter names a target in the kernel's command line; it may be repeated.
const Parameter = "skein.san"

// maxName is the longest iSCSI name, bytes (RFC 7143, 4.2.7.1).
const maxName = 223

// Portal is one address of a target: a session of its own.
type Portal struct {
	Target string
	Addr   netip.AddrPort
}

func (p Portal) String() string { return p.Target + " at " + p.Addr.String() }

// RFC 3720 3.2.6.3: iqn.YYYY-MM.reversed domain[:anything], eui. and 16 hex digits, naa. and 16 or 32.
var targetName = regexp.MustCompile(`^(iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9][a-z0-9.-]*(:[a-z0-9.:-]+)?|eui\.[0-9a-fA-F]{16}|naa\.([0-9a-fA-F]{16}|[0-9a-fA-F]{32}))$`)

// ParseSAN reads IQN@ADDR[:PORT][,ADDR[:PORT]...]. An IPv6 address is in brackets.
func ParseSAN(value string) ([]Portal, error) {
	fail := func(format string, args ...any) ([]Portal, error) {
		return nil, fmt.Errorf("%s=%s: %s; want IQN@ADDRESS[:PORT],..., as in iqn.2026-01.dev.skein:lab@10.0.1.9,[fd00::9]:3260",
			Parameter, value, fmt.Sprintf(format, args...))
	}
	target, list, ok := strings.Cut(value, "@")
	if !ok {
		return fail("no @ between the target's name and its addresses")
	}
	if len(target) > maxName || !targetName.MatchString(target) {
		return fail("%q is not an iSCSI name in lower case", target)
	}
	var portals []Portal
	seen := map[netip.AddrPort]bool{}
	for text := range strings.SplitSeq(list, ",") {
		addr, err := parseAddr(text)
		if err != nil {
			return fail("%v", err)
		}
		if seen[addr] {
			return fail("%s is there twice", addr)
		}
		seen[addr] = true
		portals = append(portals, Portal{target, addr})
	}
	return portals, nil
}

func parseAddr(text string) (netip.AddrPort, error) {
	host, port := text, uint64(DefaultPort)
	inner, bracketed := strings.CutPrefix(text, "[")
	rest := ""
	if bracketed {
		var ok bool
		if host, rest, ok = strings.Cut(inner, "]"); !ok || rest != "" && rest[0] != ':' {
			return netip.AddrPort{}, fmt.Errorf("address %q: the brackets do not fit", text)
		}
	} else if strings.Count(text, ":") > 1 {
		return netip.AddrPort{}, fmt.Errorf("address %q: an IPv6 address must be in brackets", text)
	} else if i := strings.IndexByte(text, ':'); i >= 0 {
		host, rest = text[:i], text[i:]
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q is not an IP address (a node has no names to look up when it starts)", text)
	}
	if addr.Is6() != bracketed || addr.Is4In6() || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("address %q is not one of a portal", text)
	}
	if rest != "" {
		if port, err = strconv.ParseUint(rest[1:], 10, 16); err != nil || port == 0 {
			return netip.AddrPort{}, fmt.Errorf("address %q: the port is not from 1 to 65535", text)
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}
