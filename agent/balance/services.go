package balance

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Service is what is published of one service.
type Service struct {
	Name     string       // stack/service, for names and messages
	Floating []netip.Addr // published there, on the node that holds them; if none, on this node's own addresses
	Ports    []Port
	// Targets are the addresses of the instances that may get new connections, here or on other nodes.
	Targets []netip.Addr
	// Draining are instances that get no new connections, and keep those that they have until they are in neither list.
	Draining []netip.Addr
}

// Port of a service.
type Port struct {
	Target, Published uint16
	Protocol          string // tcp or udp
}

// endpoint is where connections are taken: an address (none: all of the node's own) and a port.
type endpoint struct {
	addr  netip.Addr
	proto uint8
	port  uint16
}

func (e endpoint) key() []byte {
	var k []byte
	if e.addr.IsValid() {
		k = e.addr.AsSlice()
	}
	return append(k, e.proto, 0, 0, 0, byte(e.port>>8), byte(e.port), 0, 0)
}

func (e endpoint) String() string {
	proto := "tcp"
	if e.proto == unix.IPPROTO_UDP {
		proto = "udp"
	}
	if !e.addr.IsValid() {
		return fmt.Sprintf("port %d/%s of the node", e.port, proto)
	}
	return fmt.Sprintf("%s:%d/%s", e.addr, e.port, proto)
}

// model is what the kernel's maps should hold, or hold.
type model struct {
	chains    map[string][]netip.AddrPort // chain -> instances, sorted
	endpoints map[endpoint]string         // -> chain
	draining  map[string][]netip.AddrPort // the same of instances that only keep what they have
	protocols map[string]uint8            // of a chain
}

const chainPrefix = "to "

// buildModel checks the services. What cannot be published is left out and is in the error, by name; the
// first in order of name has an endpoint that two want.
func buildModel(services []Service) (*model, error) {
	m := &model{chains: map[string][]netip.AddrPort{}, draining: map[string][]netip.AddrPort{}, endpoints: map[endpoint]string{}, protocols: map[string]uint8{}}
	var errs []error
	services = slices.Clone(services)
	slices.SortStableFunc(services, func(a, b Service) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range services {
		if err := onlyIPv4(slices.Concat(s.Floating, s.Targets, s.Draining)); err != nil {
			errs = append(errs, fmt.Errorf("publish %s: %w", s.Name, err))
			continue
		}
		for _, p := range s.Ports {
			proto := uint8(unix.IPPROTO_TCP)
			switch p.Protocol {
			case "tcp", "":
			case "udp":
				proto = unix.IPPROTO_UDP
			default:
				errs = append(errs, fmt.Errorf("publish %s: protocol %q of port %d is not tcp or udp", s.Name, p.Protocol, p.Published))
				continue
			}
			if p.Target == 0 || p.Published == 0 {
				errs = append(errs, fmt.Errorf("publish %s: port %d to %d: zero is not a port", s.Name, p.Published, p.Target))
				continue
			}
			chain := chainName(s.Name, proto, p)
			for _, t := range s.Draining {
				m.draining[chain] = append(m.draining[chain], netip.AddrPortFrom(t, p.Target))
				m.protocols[chain] = proto
			}
			if len(s.Targets) == 0 {
				continue // the kernel refuses connections by itself, at once
			}
			addrs := s.Floating
			if len(addrs) == 0 {
				addrs = []netip.Addr{{}}
			}
			used := false
			for _, a := range addrs {
				e := endpoint{a, proto, p.Published}
				if other, taken := m.endpoints[e]; taken {
					if other != chain {
						errs = append(errs, fmt.Errorf("publish %s: %s is published already: %s", s.Name, e, strings.TrimPrefix(other, chainPrefix)))
					}
					continue
				}
				m.endpoints[e] = chain
				used = true
			}
			if !used {
				continue
			}
			var to []netip.AddrPort
			for _, t := range s.Targets {
				to = append(to, netip.AddrPortFrom(t, p.Target))
			}
			slices.SortFunc(to, netip.AddrPort.Compare)
			m.chains[chain], m.protocols[chain] = slices.Compact(to), proto
		}
	}
	return m, errors.Join(errs...)
}

// chainName is readable in a listing, and unique; names in the kernel are short of 256 bytes.
func chainName(service string, proto uint8, p Port) string {
	if len(service) > 180 {
		service = service[:180]
	}
	return fmt.Sprintf("%s%s %d %d-%d", chainPrefix, service, proto, p.Published, p.Target)
}

// Apply publishes exactly these services. Only what differs from the last time is changed, in one
// atomic batch; connections to instances that are not among the targets any more are forgotten, so that
// their clients notice. What is wrong with one service does not keep the others from being published.
func (b *Balancer) Apply(services []Service) error {
	want, invalid := buildModel(services)
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(invalid, b.retry(func() error { return b.apply(want) }))
}

func (b *Balancer) apply(want *model) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	have := b.applied
	if have == nil {
		if have, err = b.readModel(c); err != nil {
			return err
		}
	}
	batch := 0
	for _, name := range sortedKeys(want.chains) {
		to := want.chains[name]
		old, exists := have.chains[name]
		if exists && slices.Equal(old, to) {
			continue
		}
		batch++
		ch := &nftables.Chain{Table: b.t.ip, Name: name}
		if exists {
			c.FlushChain(ch)
		} else {
			c.AddChain(ch)
		}
		for i, t := range to {
			c.AddRule(&nftables.Rule{Table: b.t.ip, Chain: ch, Exprs: toTarget(t, len(to)-i)})
		}
	}
	for _, set := range []*nftables.Set{b.t.published, b.t.ports} {
		var gone, more []nftables.SetElement
		for e, chain := range have.endpoints {
			if b.mapOf(e) == set && want.endpoints[e] != chain {
				gone = append(gone, element(e, chain))
			}
		}
		for e, chain := range want.endpoints {
			if b.mapOf(e) == set && have.endpoints[e] != chain {
				more = append(more, element(e, chain))
			}
		}
		batch += len(gone) + len(more)
		if len(gone) > 0 {
			if err := c.SetDeleteElements(set, gone); err != nil {
				return fmt.Errorf("unpublish: %w", err)
			}
		}
		if len(more) > 0 {
			if err := c.SetAddElements(set, more); err != nil {
				return fmt.Errorf("publish: %w", err)
			}
		}
	}
	for _, name := range sortedKeys(have.chains) {
		if _, ok := want.chains[name]; !ok {
			batch++
			ch := &nftables.Chain{Table: b.t.ip, Name: name}
			c.FlushChain(ch)
			c.DelChain(ch)
		}
	}
	if batch > 0 {
		if err := c.Flush(); err != nil {
			b.applied = nil
			return fmt.Errorf("publish %d services' ports: %w", len(want.chains), err)
		}
	}
	b.applied = want
	b.forgetChanges(have, want)
	return nil
}

func (b *Balancer) mapOf(e endpoint) *nftables.Set {
	if e.addr.IsValid() {
		return b.t.published
	}
	return b.t.ports
}

func element(e endpoint, chain string) nftables.SetElement {
	return nftables.SetElement{Key: e.key(), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func sortedKeys(m map[string][]netip.AddrPort) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// toTarget sends one in left of the connections that come here to t; the last rule takes the rest.
func toTarget(t netip.AddrPort, left int) []expr.Any {
	var out []expr.Any
	if left > 1 {
		out = append(out,
			&expr.Numgen{Register: 1, Modulus: uint32(left), Type: unix.NFT_NG_RANDOM},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)})
	}
	return append(out,
		&expr.Immediate{Register: 1, Data: t.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, t.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2})
}

// readModel learns what a former agent published: the chains and their instances, and the maps.
func (b *Balancer) readModel(c *nftables.Conn) (*model, error) {
	m := &model{chains: map[string][]netip.AddrPort{}, endpoints: map[endpoint]string{}, protocols: map[string]uint8{}}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return nil, fmt.Errorf("list published services: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != Table || !strings.HasPrefix(ch.Name, chainPrefix) {
			continue
		}
		rules, err := c.GetRules(b.t.ip, ch)
		if err != nil {
			return nil, fmt.Errorf("read published service %q: %w", ch.Name, err)
		}
		to := []netip.AddrPort{}
		for _, r := range rules {
			if t, ok := targetOf(r.Exprs); ok {
				to = append(to, t)
			}
		}
		m.chains[ch.Name], m.protocols[ch.Name] = to, protocolOf(ch.Name)
	}
	for _, set := range []*nftables.Set{b.t.published, b.t.ports} {
		list, err := c.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("read published ports: %w", err)
		}
		for _, el := range list {
			e, ok := parseEndpoint(el.Key)
			if !ok {
				continue
			}
			// The library does not return the chain of an element: "?" is never wanted, so each element
			// is put again once, in the same batch as it is deleted.
			m.endpoints[e] = "?"
			if el.VerdictData != nil {
				m.endpoints[e] = el.VerdictData.Chain
			}
		}
	}
	return m, nil
}

// protocolOf a chain, from its name.
func protocolOf(chain string) uint8 {
	f := strings.Fields(chain)
	if len(f) >= 2 && f[len(f)-2] == strconv.Itoa(unix.IPPROTO_UDP) {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

func parseEndpoint(k []byte) (endpoint, bool) {
	var e endpoint
	if len(k) == 12 {
		e.addr = netip.AddrFrom4([4]byte(k[:4]))
		k = k[4:]
	}
	if len(k) != 8 {
		return e, false
	}
	e.proto, e.port = k[0], binary.BigEndian.Uint16(k[4:])
	return e, true
}

func targetOf(exprs []expr.Any) (netip.AddrPort, bool) {
	var addr netip.Addr
	var port uint16
	for _, e := range exprs {
		if im, ok := e.(*expr.Immediate); ok {
			switch {
			case im.Register == 1 && len(im.Data) == 4:
				addr = netip.AddrFrom4([4]byte(im.Data))
			case im.Register == 2 && len(im.Data) >= 2:
				port = binary.BigEndian.Uint16(im.Data)
			}
		}
	}
	return netip.AddrPortFrom(addr, port), addr.IsValid() && port != 0
}
