package qemu

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/skein-os/skein/qemu/bmc"
)

// bmcPort is the port of the power controller of machine 1 on the host's addresses, less one.
const bmcPort = 7900

// bmcUser is the user of every controller of the lab.
const bmcUser = "skein"

// BMC is what is needed to use a machine's power controller: a secret.
type BMC struct {
	Node        string   `json:"node"`
	Addresses   []string `json:"addresses"` // one on each LAN
	User        string   `json:"user"`
	Password    string   `json:"password"`
	Fingerprint string   `json:"fingerprint"` // of its certificate, SHA-256 in hex
	Mode        bmc.Mode `json:"mode"`
}

// controller is the power controller of one machine.
type controller struct {
	server  *bmc.Server
	info    BMC
	http    *http.Server
	serving sync.WaitGroup
}

// power is a machine as its controller sees it.
type power struct{ m *Machine }

func (p power) Powered() bool {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.m.proc != nil
}

func (p power) PowerOn(ctx context.Context) error {
	p.m.lab.events.add(p.m.node.Name, EventBMC, "told to switch it on")
	return p.m.lab.PowerOn(ctx, p.m.node.Name)
}

func (p power) PowerOff() error {
	p.m.lab.events.add(p.m.node.Name, EventBMC, "told to switch it off")
	return p.m.lab.PowerOff(p.m.node.Name)
}

func (p power) Reset(ctx context.Context) error {
	p.m.lab.events.add(p.m.node.Name, EventBMC, "told to reset it")
	return p.m.lab.Reset(ctx, p.m.node.Name)
}

// openBMC starts the power controller of a machine, on the host's address of each LAN.
func (l *Lab) openBMC(m *Machine) (*controller, error) {
	cert, fingerprint, err := bmc.Certificate(m.node.Name)
	if err != nil {
		return nil, err
	}
	password := rand.Text()
	c := &controller{info: BMC{Node: m.node.Name, User: bmcUser, Password: password, Fingerprint: fingerprint}}
	handler := bmc.New(m.node.Name, power{m}, bmcUser, password)
	c.server = handler
	c.http = &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0)} // callers that give up are what it is for
	port := uint16(bmcPort + m.node.Number)
	for lan := range LANs {
		ln, err := l.host.Listen(lan, port)
		if err != nil {
			c.close()
			return nil, fmt.Errorf("power controller of %s: %w", m.node.Name, err)
		}
		c.info.Addresses = append(c.info.Addresses, netip.AddrPortFrom(Addr(lan, hostNumber), port).String())
		c.serving.Go(func() { c.serve(ln) })
	}
	return c, nil
}

func (c *controller) serve(ln net.Listener) {
	_ = c.http.ServeTLS(ln, "", "") // ends with close only: a listener of the lab's own network does not fail
}

func (c *controller) close() {
	c.http.Close()
	c.server.Close()
	c.serving.Wait()
}

// BMCs are the power controllers of all machines, by number.
func (l *Lab) BMCs() []BMC {
	var all []BMC
	for _, m := range l.list() {
		if m.node.SAN != nil { // no node of the cluster
			continue
		}
		b := m.bmc.info
		b.Mode = m.bmc.server.Mode()
		all = append(all, b)
	}
	return all
}

// SetBMC changes how a machine's power controller behaves.
func (l *Lab) SetBMC(node string, mode bmc.Mode) error {
	m, err := l.machine(node)
	if err != nil {
		return err
	}
	if err := m.bmc.server.SetMode(mode); err != nil {
		return err
	}
	l.events.add(node, EventBMC, "behaves from now on: "+string(mode))
	return nil
}
