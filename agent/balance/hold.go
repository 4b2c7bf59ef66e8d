package balance

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// label marks our addresses on the loopback: no other is ever removed.
const label = "lo:skein"

// ErrStillHeld is in the error of a Hold that could not withdraw an address: the kernel may still answer on it,
// until the end of the lease that it was told last. Such a Hold has renewed nothing. Try again.
var ErrStillHeld = errors.New("an address that is to be withdrawn may still be answered")

// Hold makes addrs the floating addresses that this node answers on, until the boot clock (Now) says
// until. Call it at every renewal of the lease: with the same addresses it only moves the deadline, in one
// message. New addresses are announced on all links; the others are dropped at once.
func (b *Balancer) Hold(addrs []netip.Addr, until time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stale && slices.Equal(addrs, b.held) { // the usual case, without a copy
		if until == b.until || len(addrs) == 0 {
			return nil
		}
		if err := b.renew.renew(until); err == nil {
			b.until = until
			b.announcer.setHeld(b.held, until)
			return nil
		}
		b.stale = true // look what is there, below
	}
	if err := onlyIPv4(addrs); err != nil {
		return err
	}
	want := sorted(slices.Clone(addrs))
	err := b.retry(func() error { return b.hold(want, until) })
	if left := minus(b.maybe, want); err != nil && len(left) > 0 {
		return fmt.Errorf("%w: %v: %w", ErrStillHeld, left, err)
	}
	return err
}

// Held is what this node holds now, and until when.
func (b *Balancer) Held() ([]netip.Addr, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.held), b.until
}

// Announce tells both LANs again where the held addresses are. For when a partition has healed: switches
// and neighbours may have learned otherwise meanwhile.
func (b *Balancer) Announce() { b.announcer.burst() }

func (b *Balancer) hold(want []netip.Addr, until time.Duration) error {
	// In this order nothing is ever open too early or too long: what is withdrawn goes first, or a lease that is
	// renewed would keep it open if the kernel refused; then the lease, then the guard, and last the address by
	// which the kernel answers.
	had := b.held
	if kept := minus(had, minus(had, want)); len(kept) < len(had) {
		if err := b.pass(kept); err != nil {
			return err
		}
	}
	if len(want) > 0 && until != b.until {
		if err := b.renew.renew(until); err != nil {
			return err
		}
		b.until = until
	}
	if err := b.setFloating(sorted(append(slices.Clone(b.floating), want...))); err != nil {
		return err
	}
	if !slices.Equal(want, b.held) {
		if err := b.pass(want); err != nil {
			return err
		}
	}
	if err := b.placeAddresses(want); err != nil {
		return err
	}
	for _, gone := range minus(had, want) {
		b.forget(flowFilter{dst: gone})
	}
	b.announcer.setHeld(want, until)
	return nil
}

// pass makes these the addresses that the guard lets through while the lease runs.
func (b *Balancer) pass(want []netip.Addr) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, s := range []*nftables.Set{b.t.ipHeld, b.t.devHeld} {
		if err := queueDiff(c, s, b.held, want); err != nil {
			return err
		}
	}
	b.maybe = sorted(append(slices.Clone(b.maybe), want...)) // an error may be of the answer only
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change held addresses from %v to %v: %w", b.held, want, err)
	}
	b.held, b.maybe = want, want
	return nil
}

// placeAddresses makes these the addresses with our label on the loopback.
func (b *Balancer) placeAddresses(want []netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("bring the loopback up: %w", err)
		}
	}
	list, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of the loopback: %w", err)
	}
	var have []netip.Addr
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP.To4())
		if !ok || a.Label != label {
			continue
		}
		if slices.Contains(want, addr) {
			have = append(have, addr)
			continue
		}
		if err := netlink.AddrDel(lo, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("drop floating address %s: %w", addr, err)
		}
	}
	for _, addr := range want {
		if slices.Contains(have, addr) {
			continue
		}
		// Scope host: it never becomes the source of the node's own connections by itself.
		a := &netlink.Addr{
			IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)},
			Label: label, Scope: unix.RT_SCOPE_HOST,
		}
		if err := netlink.AddrAdd(lo, a); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("take floating address %s: %w", addr, err)
		}
	}
	return nil
}
