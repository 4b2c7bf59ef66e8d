package netboot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/skein-os/skein/tests/netspace"
)

func TestMain(m *testing.M) { netspace.Main(m) }

// serve runs a server on this end of a wire, and returns the machine at the other end.
func serve(t *testing.T, pool *Pool) (netspace.Machine, *Server) {
	t.Helper()
	netspace.Need(t)
	m := netspace.New(t, "boot0", "eth0")
	addr := netip.MustParsePrefix("192.0.2.1/24")
	if err := netspace.Address("boot0", addr); err != nil {
		t.Fatal(err)
	}
	folder := testFolder(t)
	folder[IPXEUEFI] = folder[KernelFile]
	folder[IPXEBIOS] = folder[KernelFile]
	s, err := NewServer(Config{Interfaces: []Interface{{"boot0", addr}}, Folder: folder, HTTPPort: 80, Cmdline: "quiet", Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	// It listens when it takes a connection.
	for {
		c, err := net.Dial("tcp4", "192.0.2.1:80")
		if err == nil {
			c.Close()
			return m, s
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the server ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ask sends a DHCP message to everybody, from the machine's address if it has one, and waits for the answer.
func ask(t *testing.T, m netspace.Machine, req *dhcpv4.DHCPv4, port int) (reply *dhcpv4.DHCPv4) {
	t.Helper()
	m.Do(t, func() error {
		conn, err := nclient4.NewRawUDPConn("eth0", dhcpv4.ClientPort)
		if err != nil {
			return err
		}
		defer conn.Close()
		for range 20 {
			if _, err := conn.WriteTo(req.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: port}); err != nil {
				return err
			}
			_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			buf := make([]byte, 4096)
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				continue
			}
			r, err := dhcpv4.FromBytes(buf[:n])
			if err == nil && r.TransactionID == req.TransactionID {
				reply = r
				return nil
			}
		}
		return errors.New("no answer")
	})
	return reply
}

// TestProxyBoots is one boot of a UEFI machine, up to what it would start.
func TestProxyBoots(t *testing.T) {
	m, s := serve(t, nil)
	offer := ask(t, m, question(t, dhcpv4.MessageTypeDiscover, "PXEClient:Arch:00007", iana.EFI_X86_64, ""), dhcpv4.ServerPort)
	if offer.BootFileName != tftpName(testMAC, IPXEUEFI) || !offer.YourIPAddr.IsUnspecified() {
		t.Fatalf("got %s", offer.Summary())
	}
	again := ask(t, m, question(t, dhcpv4.MessageTypeRequest, "PXEClient:Arch:00007", iana.EFI_X86_64, ""), askPort)
	if again.MessageType() != dhcpv4.MessageTypeAck || again.BootFileName != tftpName(testMAC, IPXEUEFI) {
		t.Errorf("on port 4011: got %s", again.Summary())
	}
	script := ask(t, m, question(t, dhcpv4.MessageTypeDiscover, "PXEClient:Arch:00007", iana.EFI_X86_64, "iPXE"), dhcpv4.ServerPort)
	m.Do(t, func() error { return netspace.Address("eth0", netip.MustParsePrefix("192.0.2.9/24")) })
	m.Do(t, func() error {
		addr, err := net.ResolveUDPAddr("udp4", "192.0.2.1:69")
		if err != nil {
			return err
		}
		got, err := get(addr, offer.BootFileName)
		if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("k"), 5000)) {
			t.Errorf("TFTP: got %d bytes, %v", len(got), err)
		}
		if machines, _ := s.Machines(); len(machines) != 1 || machines[0].Stage != StageLoader {
			t.Errorf("after TFTP: got %+v, want %s", machines, StageLoader)
		}
		conn, err := net.Dial("tcp4", "192.0.2.1:80")
		if err != nil {
			return err
		}
		client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
		for url, want := range map[string]string{
			script.BootFileName:                                                  "kernel --name kernel --timeout 8000 http://192.0.2.1:80/v1/boot/bzImage?mac=52:54:00:00:00:01",
			"http://192.0.2.1/v1/boot/" + KernelFile:                             "kkkk",
			"http://192.0.2.1/v1/boot/" + ArchiveFile + "?mac=52:54:00:00:00:01": "aaaa",
		} {
			resp, err := client.Get(url)
			if err != nil {
				return err
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), want) {
				t.Errorf("%s: got %d, %.200q, %v", url, resp.StatusCode, body, err)
			}
		}
		return nil
	})
	machines, _ := s.Machines()
	if len(machines) != 1 || machines[0].Stage != StageBooted || machines[0].Address.String() != "192.0.2.9" {
		t.Errorf("got %+v", machines)
	}
}

// get fetches a file by TFTP on the calling thread.
func get(server net.Addr, name string) ([]byte, error) {
	conn, err := net.ListenPacket("udp4", "192.0.2.9:0")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_, err = conn.WriteTo(append([]byte{0, opRead}, name+"\x00octet\x00"...), server)
	var got []byte
	buf := make([]byte, 600)
	for err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		var n int
		var from net.Addr
		if n, from, err = conn.ReadFrom(buf); err != nil || n < 4 {
			return got, err
		}
		got = append(got, buf[4:n]...)
		_, err = conn.WriteTo([]byte{0, opAck, buf[2], buf[3]}, from)
		if n < 516 {
			break
		}
	}
	return got, err
}

// TestFullServer gives addresses, and a second one beside it refuses to.
func TestFullServer(t *testing.T) {
	pool, err := NewPool(netip.MustParseAddr("192.0.2.50"), netip.MustParseAddr("192.0.2.51"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := serve(t, pool)
	m.Do(t, func() error {
		c, err := nclient4.New("eth0", nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(5))
		if err != nil {
			return err
		}
		defer c.Close()
		lease, err := c.Request(t.Context())
		if err != nil {
			return err
		}
		if got := lease.ACK.YourIPAddr.String(); got != "192.0.2.50" || lease.ACK.BootFileName != "" {
			t.Errorf("a machine that does not boot: got %s, file %q", got, lease.ACK.BootFileName)
		}
		return nil
	})
	boot := ask(t, m, question(t, dhcpv4.MessageTypeDiscover, "PXEClient", iana.INTEL_X86PC, ""), dhcpv4.ServerPort)
	if boot.YourIPAddr.String() != "192.0.2.51" || boot.BootFileName != tftpName(testMAC, IPXEBIOS) {
		t.Errorf("got %s", boot.Summary())
	}
	m.Do(t, func() error {
		err := probe(t.Context(), Interface{"eth0", netip.MustParsePrefix("192.0.2.9/24")})
		if !errors.Is(err, ErrOtherServer) || !strings.Contains(err.Error(), "192.0.2.1 offers") {
			t.Errorf("beside another server: got %v", err)
		}
		return nil
	})
}
