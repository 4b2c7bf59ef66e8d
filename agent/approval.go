package agent

import (
	"context"
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/admission"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/agent/pki"
	"github.com/skein-os/skein/agent/seed"
)

// How a machine without a token asks.
const (
	askEvery   = 2 * time.Second  // while it waits
	sayEvery   = 30 * time.Second // that it still waits, on the console
	deniedMin  = 5 * time.Second  // before it asks again after it was denied; doubled each time
	deniedMax  = 5 * time.Minute
	mostHeard  = 16 // addresses that were heard
	approveKey = "approval.key"
)

// readSeed reads the seed or, if there is none, the CA's fingerprint on the kernel's command line.
func (a *Agent) readSeed() error {
	s, err := seed.Read(a.opts.SeedPath)
	if err == nil || !errors.Is(err, seed.ErrNone) {
		a.seed = s
		return err
	}
	cmdline, rerr := os.ReadFile("/proc/cmdline")
	if rerr != nil {
		return fmt.Errorf("read the kernel's command line: %w", rerr)
	}
	if a.pin, rerr = admission.ParsePin(string(cmdline)); rerr != nil {
		return rerr
	}
	if a.pin == nil {
		return fmt.Errorf("%w; or with the fingerprint of a cluster's CA on the kernel's command line ('skein cluster ca' prints the words)", err)
	}
	a.seed = &seed.Seed{Network: cluster.DefaultNetwork.Prefix}
	return nil
}

// adopt makes what a machine was given at its admission its own, as if it had been in a seed.
func (a *Agent) adopt(adm *admission.Admitted) {
	if a.pin == nil {
		return
	}
	a.seed.Cluster, a.seed.Token, a.seed.Network = adm.Meta.Name, hex.EncodeToString(adm.Token), adm.Meta.Network.Prefix
	if a.id.Name != adm.Node.Name {
		a.id.Name = adm.Node.Name
		if err := setHostname(a.id.Name); err != nil {
			a.log.Warn("host name", "err", err)
		}
	}
}

// approvalKey is this boot's key: an agent that starts again has the same code on the console.
func (a *Agent) approvalKey() (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(a.path(approveKey))
	if err == nil {
		return pki.ParseKey(data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read this machine's key: %w", err)
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	if data, err = pki.KeyPEM(key); err != nil {
		return nil, err
	}
	return key, os.WriteFile(a.path(approveKey), data, 0o600)
}

// awaitApproval asks to be admitted until it is.
func (a *Agent) awaitApproval(ctx context.Context) (*membership, error) {
	key, err := a.approvalKey()
	if err != nil {
		return nil, err
	}
	hash, err := pki.KeyHash(key.Public())
	if err != nil {
		return nil, err
	}
	code := admission.Code(a.pin.CA, hash)
	req := admission.Request{
		Name: a.id.Name, MachineID: a.id.MachineID, BootID: a.id.BootID, CPUs: a.id.CPUs, Memory: a.id.Memory,
		Software: a.opts.Version, Witness: a.id.Witness, Serial: dmi("product_serial", 64),
		Model: strings.TrimSpace(dmi("sys_vendor", 64) + " " + dmi("product_name", 63)),
	}
	begin := time.Now() // monotonic
	a.log.Info("this machine asks to join a cluster; on an operator's machine: skein node approve "+code, "code", code,
		"name", req.Name, "ca", a.pin.CA)
	pause, said, last := askEvery, begin, ""
	var heard []netip.AddrPort
	for {
		heard = a.heardMembers(heard)
		req.Links = a.links.List()
		adm, from, err := a.askAll(ctx, append(a.pinned(ctx), heard...), key, req)
		if err == nil {
			a.log.Info("approved and admitted", "by", adm.AdmittedBy, "node", adm.Node.Name, "number", adm.Node.Number, "epoch", adm.Node.Epoch)
			a.adopt(adm)
			return a.joined(ctx, adm, from)
		}
		now, denied := a.waitsFor(err), (*admission.Denied)(nil)
		if errors.As(err, &denied) {
			pause = min(max(2*pause, deniedMin), deniedMax)
			a.log.Warn("this machine was denied, asking again later: "+denied.Error(), "code", code, "again_in", pause)
			last = ""
		} else {
			pause = askEvery
			if now != last || time.Since(said) >= sayEvery {
				a.log.Info(now, "code", code, "waiting", time.Since(begin).Round(time.Second).String())
				last, said = now, time.Now()
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// waitsFor is what the console says.
func (a *Agent) waitsFor(err error) string {
	var w *admission.Waiting
	switch {
	case errors.As(err, &w):
		return "waiting for an operator to approve the code (asked " + w.Member + ")"
	case errors.Is(err, errNobody):
		return "waiting for a member of the cluster to be heard: none is named on the kernel's command line (skein.join=)"
	}
	return "waiting for a member that answers: " + strings.ReplaceAll(err.Error(), "\n", "; ")
}

var errNobody = errors.New("no member of the cluster is known")

// askAll asks members in turn until one knows what is decided.
func (a *Agent) askAll(ctx context.Context, members []netip.AddrPort, key *ecdsa.PrivateKey, req admission.Request) (*admission.Admitted, netip.AddrPort, error) {
	errs := []error{}
	for _, addr := range members {
		adm, err := admission.Ask(ctx, addr, a.pin.CA, key, req)
		var w *admission.Waiting
		var d *admission.Denied
		if err == nil || errors.As(err, &w) || errors.As(err, &d) || ctx.Err() != nil {
			return adm, addr, err
		}
		errs = append(errs, err)
	}
	if len(members) == 0 {
		errs = append(errs, errNobody)
	}
	return nil, netip.AddrPort{}, errors.Join(errs...)
}

// pinned are the members that the command line names.
func (a *Agent) pinned(ctx context.Context) []netip.AddrPort {
	var out []netip.AddrPort
	for _, j := range a.pin.Join {
		host, port := j, uint16(cluster.PortAPI)
		if h, p, err := net.SplitHostPort(j); err == nil {
			if n, err := strconv.ParseUint(p, 10, 16); err == nil {
				host, port = h, uint16(n)
			}
		}
		rctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		addrs, err := net.DefaultResolver.LookupNetIP(rctx, "ip", host)
		cancel()
		if err != nil {
			a.log.Warn("a member of the command line is not known", "name", host, "err", err)
		}
		for _, addr := range addrs {
			out = append(out, netip.AddrPortFrom(addr.Unmap(), port))
		}
	}
	return out
}

// heardMembers reads the beacons that have come. They are hints: the newest are kept, and who answers has to show the CA.
func (a *Agent) heardMembers(known []netip.AddrPort) []netip.AddrPort {
	for {
		select {
		case data := <-a.beacons:
			for _, addr := range admission.PeekBeacon(data) {
				if to := netip.AddrPortFrom(addr, cluster.PortAPI); !slices.Contains(known, to) {
					known = append(known, to)
				}
			}
		default:
			return known[max(0, len(known)-mostHeard):]
		}
	}
}

// dmi is what the firmware says, empty if it says nothing.
func dmi(name string, most int) string {
	data, err := os.ReadFile("/sys/class/dmi/id/" + name)
	if err != nil {
		return ""
	}
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, strings.TrimSpace(string(data)))
	return s[:min(len(s), most)]
}
