package balance

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Names in the kernel. The three tables have one name in three families.
const (
	Table = "skein"

	// version names a chain without rules: tables that do not have it were made by another release and
	// are replaced.
	version = "layout 1"

	chainLease = "lease"
	setLease   = "lease"
)

// Offsets in the headers.
const (
	ipSource      = 12
	ipDestination = 16
	arpSender     = 14 // in ARP for Ethernet and IPv4 (RFC 826)
	dstPort       = 2
)

// tables are the nftables objects of the package. ip guards and balances IP packets; netdev guards ARP at
// the very end of the way out of each port, where also frames of packet sockets pass; arp is the net
// below: it shuts ports that have no netdev chain.
type tables struct {
	ip, netdev, arp *nftables.Table

	ipFloating, ipHeld, ipLease     *nftables.Set
	locals, published, ports        *nftables.Set
	devFloating, devHeld, devLease  *nftables.Set
	arpFloating, arpGuarded         *nftables.Set
	ipLeaseChain, devLeaseChain     *nftables.Chain
	guardIn, guardLocal, guardOut   *nftables.Chain
	natIn, natLocal, natOut, arpOut *nftables.Chain
	markIP, markDev, markARP        *nftables.Chain
}

func newTables() *tables {
	t := &tables{
		ip:     &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4},
		netdev: &nftables.Table{Name: Table, Family: nftables.TableFamilyNetdev},
		arp:    &nftables.Table{Name: Table, Family: nftables.TableFamilyARP},
	}
	addresses := func(table *nftables.Table, name string) *nftables.Set {
		return &nftables.Set{Table: table, Name: name, KeyType: nftables.TypeIPAddr}
	}
	lease := func(table *nftables.Table) *nftables.Set {
		return &nftables.Set{Table: table, Name: setLease, KeyType: nftables.TypeMark, HasTimeout: true}
	}
	t.ipFloating, t.ipHeld, t.ipLease = addresses(t.ip, "floating"), addresses(t.ip, "held"), lease(t.ip)
	t.devFloating, t.devHeld, t.devLease = addresses(t.netdev, "floating"), addresses(t.netdev, "held"), lease(t.netdev)
	t.arpFloating = addresses(t.arp, "floating")
	t.arpGuarded = &nftables.Set{Table: t.arp, Name: "guarded", KeyType: nftables.TypeIFName}
	t.locals = addresses(t.ip, "locals")
	t.published = &nftables.Set{
		Table: t.ip, Name: "published", IsMap: true, DataType: nftables.TypeVerdict, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	t.ports = &nftables.Set{
		Table: t.ip, Name: "ports", IsMap: true, DataType: nftables.TypeVerdict, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
	chain := func(table *nftables.Table, name string) *nftables.Chain {
		return &nftables.Chain{Table: table, Name: name}
	}
	base := func(table *nftables.Table, name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Table: table, Name: name, Type: kind, Hooknum: hook, Priority: prio}
	}
	t.markIP, t.markDev, t.markARP = chain(t.ip, version), chain(t.netdev, version), chain(t.arp, version)
	t.ipLeaseChain, t.devLeaseChain = chain(t.ip, chainLease), chain(t.netdev, chainLease)
	// In: before connection tracking, so that a known connection is no way around it. Out: after
	// address translation, where the source is what the wire will see.
	t.guardIn = base(t.ip, "guard in", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	t.guardLocal = base(t.ip, "guard local", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	t.guardOut = base(t.ip, "guard out", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, nftables.ChainPriorityConntrackHelper)
	t.natIn = base(t.ip, "nat in", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	t.natLocal = base(t.ip, "nat local", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	t.natOut = base(t.ip, "nat out", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	// ARP has only two hooks, and their numbers are its own: in 0, out 1.
	t.arpOut = base(t.arp, "guard out", nftables.ChainTypeFilter, nftables.ChainHookRef(1), nftables.ChainPriorityFilter)
	return t
}

// egress is the guard's chain on one port.
func (t *tables) egress(link string) *nftables.Chain {
	return &nftables.Chain{
		Table: t.netdev, Name: egressPrefix + link, Device: link, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookEgress, Priority: nftables.ChainPriorityFilter,
	}
}

const egressPrefix = "guard "

// create queues everything that does not depend on what is held or published.
func (t *tables) create(c *nftables.Conn, cfg *Config) error {
	for _, table := range []*nftables.Table{t.ip, t.netdev, t.arp} {
		c.AddTable(table) // the deletion needs one; all of it is one batch
		c.DelTable(table)
		c.AddTable(table)
	}
	for _, s := range []*nftables.Set{
		t.ipFloating, t.ipHeld, t.ipLease, t.locals, t.published, t.ports,
		t.devFloating, t.devHeld, t.devLease, t.arpFloating, t.arpGuarded,
	} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, ch := range []*nftables.Chain{
		t.markIP, t.markDev, t.markARP, t.ipLeaseChain, t.devLeaseChain, t.guardIn, t.guardLocal, t.guardOut,
		t.natIn, t.natLocal, t.natOut, t.arpOut,
	} {
		c.AddChain(ch)
	}
	add := func(ch *nftables.Chain, parts ...[]expr.Any) {
		r := &nftables.Rule{Table: ch.Table, Chain: ch}
		for _, p := range parts {
			r.Exprs = append(r.Exprs, p...)
		}
		c.AddRule(r)
	}
	toLease, drop := verdict(expr.VerdictJump, chainLease), verdict(expr.VerdictDrop, "")
	notBridge := func(key expr.MetaKey) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: key, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(cfg.Bridge)},
		}
	}
	// What comes for an address that we hold passes while the lease runs, from anywhere.
	add(t.guardIn, address(ipDestination), in(t.ipHeld), toLease)
	add(t.guardIn, address(ipDestination), in(t.ipHeld), drop)
	// What comes from outside for one that we do not hold is dropped; containers may reach the holder
	// through us.
	add(t.guardIn, notBridge(expr.MetaKeyIIFNAME), address(ipDestination), in(t.ipFloating), drop)
	add(t.guardLocal, address(ipDestination), in(t.ipHeld), toLease)
	add(t.guardLocal, address(ipDestination), in(t.ipHeld), drop)
	add(t.guardOut, address(ipSource), in(t.ipHeld), toLease)
	add(t.guardOut, notBridge(expr.MetaKeyOIFNAME), address(ipSource), in(t.ipFloating), drop)

	add(t.arpOut, address(arpSender), in(t.arpFloating),
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: t.arpGuarded.Name, Invert: true}}, drop)

	for _, ch := range []*nftables.Chain{t.natIn, t.natLocal} {
		// Only an address that we hold: an instance that waits for its proof gets no connections, not
		// even from its neighbours.
		add(ch, address(ipDestination), in(t.ipHeld), []expr.Any{
			&expr.Payload{DestRegister: unix.NFT_REG32_00, Base: expr.PayloadBaseNetworkHeader, Offset: ipDestination, Len: 4},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_01},
			&expr.Payload{DestRegister: unix.NFT_REG32_02, Base: expr.PayloadBaseTransportHeader, Offset: dstPort, Len: 2},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: t.published.Name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
		})
		add(ch, address(ipDestination), in(t.locals), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG32_00},
			&expr.Payload{DestRegister: unix.NFT_REG32_01, Base: expr.PayloadBaseTransportHeader, Offset: dstPort, Len: 2},
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: t.ports.Name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT},
		})
	}
	// An instance on another node, or a client beside its instance on the same bridge, would answer
	// straight to the client, who knows nothing of it: let the answers come back through us.
	dnatted := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(ctStatusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
	snat := []expr.Any{
		&expr.Immediate{Register: 1, Data: cfg.Node.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
	add(t.natOut, dnatted, within(ipDestination, cfg.Subnet, expr.CmpOpNeq), snat)
	add(t.natOut, dnatted, within(ipSource, cfg.Subnet, expr.CmpOpEq), snat)
	return nil
}

// ctStatusDNAT is IPS_DST_NAT.
const ctStatusDNAT = 1 << 5

// guardPort queues the rules of one port's chain.
func (t *tables) guardPort(c *nftables.Conn, link string) {
	ch := c.AddChain(t.egress(link))
	isARP := []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 12, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 14 + arpSender, Len: 4},
	}
	rule := func(set *nftables.Set, v []expr.Any) {
		exprs := append(append(append([]expr.Any{}, isARP...), in(set)...), v...)
		c.AddRule(&nftables.Rule{Table: t.netdev, Chain: ch, Exprs: exprs})
	}
	rule(t.devHeld, verdict(expr.VerdictJump, chainLease))
	rule(t.devFloating, verdict(expr.VerdictDrop, ""))
}

// address loads the IPv4 address at offset of the network header into register 1.
func address(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
}

// in goes on if register 1 is in the set.
func in(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

func within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	return append(address(offset),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

// ifname is an interface's name as nftables compares it: padded with zeros.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func elements(addrs []netip.Addr) []nftables.SetElement {
	out := make([]nftables.SetElement, len(addrs))
	for i, a := range addrs {
		out[i].Key = a.AsSlice()
	}
	return out
}
