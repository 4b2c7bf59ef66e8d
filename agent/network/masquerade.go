package network

import (
	"bytes"
	"fmt"
	"net"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Table is the nftables table (family ip) of this package.
const Table = "skein-node"

// setupMasquerade gives what containers send to the outside world the address of the port it leaves by:
// nobody out there has a route to the cluster's network. Inside the cluster, addresses stay as they are.
func (n *Node) setupMasquerade() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// The marker is the rule's comment: a table made for other addresses is replaced.
	marker := []byte("masquerade " + n.subnet.String() + " outside " + n.cluster.String())
	table := &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}
	chain := &nftables.Chain{
		Name: "masquerade", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}
	if rules, err := c.GetRules(table, chain); err == nil && len(rules) == 1 && bytes.Equal(rules[0].UserData, marker) {
		return nil
	}
	c.AddTable(table) // so that the deletion of it finds one: the batch is atomic
	c.DelTable(table)
	c.AddTable(table)
	c.AddChain(chain)
	rule := &nftables.Rule{Table: table, Chain: chain, UserData: marker}
	rule.Exprs = append(rule.Exprs, inNetwork(12, ipNet(n.subnet), expr.CmpOpEq)...)
	rule.Exprs = append(rule.Exprs, inNetwork(16, ipNet(n.cluster), expr.CmpOpNeq)...)
	rule.Exprs = append(rule.Exprs, &expr.Masq{})
	c.AddRule(rule)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set up masquerade for %s (are nf_tables, nft_chain_nat and nft_masq loaded?): %w", n.subnet, err)
	}
	return nil
}

// inNetwork compares the IPv4 address at offset of the network header with a network.
func inNetwork(offset uint32, net *net.IPNet, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.Mask, Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: op, Register: 1, Data: net.IP.Mask(net.Mask).To4()},
	}
}
