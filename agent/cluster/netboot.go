package cluster

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

// NetbootRecord says that members boot machines from the network, and with what.
type NetbootRecord struct {
	// Interfaces are the ports, by name, on which they answer; empty: all that have an address.
	Interfaces []string      `json:"interfaces,omitempty"`
	Port       uint16        `json:"port"`    // for HTTP
	Cmdline    string        `json:"cmdline"` // what kernels are told, the same on every machine
	Files      []NetbootFile `json:"files"`
	EnabledBy  string        `json:"enabled_by"` // the operator
	Enabled    time.Time     `json:"enabled"`    // wall clock, for people only

	Revision int64 `json:"-"`
}

// NetbootFile is a file that machines boot.
type NetbootFile struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // SHA-256, hex
	Size   int64  `json:"size_bytes"`
}

// MaxNetbootFile is how large a file may be, bytes: members keep them in memory.
const MaxNetbootFile = 256 << 20

var (
	netbootName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	hexSHA256   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// IsSHA256 tells whether text is a SHA-256 in lower-case hex: then it is a safe name of a file, too.
func IsSHA256(text string) bool { return hexSHA256.MatchString(text) }

// Check tells what is wrong with the record; nil if nothing is.
func (r *NetbootRecord) Check() error {
	if r.Port == 0 {
		return errors.New("netboot: no port for HTTP; 80 is the usual one")
	}
	if strings.ContainsFunc(r.Cmdline, func(c rune) bool { return c < ' ' || c > '~' }) {
		return errors.New("netboot: the kernel's command line must be one line of printable ASCII")
	}
	for _, f := range r.Files {
		switch {
		case !netbootName.MatchString(f.Name):
			return fmt.Errorf("netboot: file %q: a name has letters, digits, dots, dashes and underscores", f.Name)
		case !IsSHA256(f.Digest):
			return fmt.Errorf("netboot: file %s: %q is no SHA-256 in hex", f.Name, f.Digest)
		case f.Size < 1 || f.Size > MaxNetbootFile:
			return fmt.Errorf("netboot: file %s has %d bytes; 1 to %d are possible", f.Name, f.Size, MaxNetbootFile)
		}
	}
	return nil
}

// netbootServers is how many members answer. More would not help, and firmware keeps 16 offers at most.
const netbootServers = 3

// NetbootServers are the members that boot machines, the best first: those that are there and not about to leave, by number.
// They are few and always the same, since each has a copy of the files in its memory.
func (s *State) NetbootServers() []*Node {
	var out []*Node
	if s.Netboot == nil {
		return nil
	}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; (n.State == NodeOnline || n.State == NodeDraining || n.State == NodeDrained) && !n.Witness && n.Leaving == nil {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b *Node) int { return cmp.Compare(a.Number, b.Number) })
	return out[:min(len(out), netbootServers)]
}

// NetbootOrder is the order in which the servers answer a machine, by the rule of the highest random weight: it is the same on
// all of them, differs from machine to machine, and the loss of one changes nothing among the others.
func NetbootOrder(servers []*Node, mac net.HardwareAddr) []*Node {
	weight := func(n *Node) uint64 {
		sum := sha256.Sum256(append([]byte(n.Name+"\x00"), mac...))
		return binary.BigEndian.Uint64(sum[:])
	}
	out := slices.Clone(servers)
	slices.SortFunc(out, func(a, b *Node) int { return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(a.Name, b.Name)) })
	return out
}
