package netboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// startTFTP serves one file, "file", on loopback.
func startTFTP(t *testing.T, content []byte) (addr net.Addr, done chan error) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done = make(chan error, 16)
	s := &TFTP{
		Open: func(name string, _ netip.AddrPort) (io.ReadCloser, int64, error) {
			if name != "file" {
				return nil, 0, fmt.Errorf("%s: %w", name, os.ErrNotExist)
			}
			return io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
		},
		Listen: func() (net.PacketConn, error) { return net.ListenPacket("udp4", "127.0.0.1:0") },
		Done:   func(_ string, _ netip.AddrPort, _ int64, err error) { done <- err },
	}
	go func() { _ = s.Serve(conn) }() // ends with the socket
	t.Cleanup(func() { conn.Close(); s.Close() })
	return conn.LocalAddr(), done
}

// fetch is a client. Of its packets the share lose gets lost, in both directions.
func fetch(t *testing.T, server net.Addr, options string, block, window int, lose float64) ([]byte, error) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := rand.New(rand.NewPCG(1, uint64(block)))
	send := func(p []byte, to net.Addr) {
		if r.Float64() >= lose {
			_, _ = conn.WriteTo(p, to)
		}
	}
	ask := append([]byte{0, opRead}, strings.ReplaceAll("file|octet|"+options, "|", "\x00")...)
	var got []byte
	var peer net.Addr
	want, inWindow := uint16(1), 0
	buf := make([]byte, 4096)
	ack := func(n uint16) []byte { return binary.BigEndian.AppendUint16([]byte{0, opAck}, n) }
	_, _ = conn.WriteTo(ask, server)
	for range 200_000 {
		_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		n, from, err := conn.ReadFrom(buf)
		switch {
		case err != nil && peer == nil:
			_, _ = conn.WriteTo(ask, server)
			continue
		case err != nil:
			send(ack(want-1), peer)
			inWindow = 0
			continue
		case r.Float64() < lose:
			continue
		}
		peer = from
		switch binary.BigEndian.Uint16(buf) {
		case opOptionAck:
			send(ack(0), peer)
		case opError:
			return nil, errors.New(string(buf[4 : n-1]))
		case opData:
			if binary.BigEndian.Uint16(buf[2:]) != want {
				if inWindow > 0 { // a gap: what is there is said at once
					send(ack(want-1), peer)
					inWindow = 0
				}
				continue
			}
			got = append(got, buf[4:n]...)
			want++
			inWindow++
			if last := n-4 < block; last || inWindow == window {
				_, _ = conn.WriteTo(ack(want-1), peer)
				inWindow = 0
				if last {
					return got, nil
				}
			}
		}
	}
	return got, errors.New("no end")
}

func TestTFTP(t *testing.T) {
	for _, tt := range []struct {
		options       string
		block, window int
		size          int
		lose          float64
	}{
		{"", 512, 1, 10_000, 0},
		{"", 512, 1, 1024, 0}, // a last block of nothing
		{"blksize|1468|tsize|0|windowsize|4|", 1468, 4, 174_000, 0},
		{"blksize|1468|windowsize|4|", 1468, 4, 100_000, 0.05},
		{"blksize|99999|windowsize|999|", maxTFTPBlock, maxTFTPWindow, 50_000, 0},
		{"blksize|3|windowsize|0|timeout|x|", 512, 1, 5_000, 0},
		{"blksize|8|windowsize|16|", 8, 16, 8*70_000 + 3, 0}, // numbers go round
	} {
		t.Run(fmt.Sprintf("%q %d", tt.options, tt.size), func(t *testing.T) {
			content := make([]byte, tt.size)
			for i := range content {
				content[i] = byte(i * 7 >> 3)
			}
			addr, done := startTFTP(t, content)
			got, err := fetch(t, addr, tt.options, tt.block, tt.window, tt.lose)
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("got %d of %d bytes, %v", len(got), len(content), err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTFTPRefuses(t *testing.T) {
	addr, _ := startTFTP(t, []byte("x"))
	for name, p := range map[string][]byte{
		"there is no": append([]byte{0, opRead}, "../etc/passwd\x00octet\x00"...),
		"written":     append([]byte{0, opWrite}, "file\x00octet\x00"...),
		"mode":        append([]byte{0, opRead}, "file\x00netascii\x00"...),
		"not a file":  append([]byte{0, opRead}, "file"...),
	} {
		conn, err := net.Dial("udp4", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		sock, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		_, _ = sock.WriteTo(p, addr)
		buf := make([]byte, 600)
		_ = sock.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, _, err := sock.ReadFrom(buf)
		if err != nil || binary.BigEndian.Uint16(buf) != opError {
			t.Errorf("%s: got %q, %v; want an error", name, buf[:n], err)
		}
		sock.Close()
	}
}

// TestTFTPSizeOnly: UEFI asks for the size first, and ends that with an error.
func TestTFTPSizeOnly(t *testing.T) {
	addr, done := startTFTP(t, make([]byte, 100_000))
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.WriteTo(append([]byte{0, opRead}, "file\x00octet\x00tsize\x000\x00blksize\x001468\x00"...), addr)
	buf := make([]byte, 600)
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, peer, err := conn.ReadFrom(buf)
	if err != nil || binary.BigEndian.Uint16(buf) != opOptionAck || !bytes.Contains(buf[:n], []byte("tsize\x00100000\x00")) {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	_, _ = conn.WriteTo(errorPacket(8, "User aborted the transfer"), peer)
	if err := <-done; !errors.Is(err, ErrAborted) {
		t.Errorf("got %v", err)
	}
}

func FuzzTFTPRequest(f *testing.F) {
	f.Add(append([]byte{0, opRead}, "file\x00octet\x00blksize\x001468\x00"...))
	f.Add([]byte{0, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRequest(p)
		if err != nil {
			return
		}
		if a := r.agree(1000); a.block < 8 || a.block > maxTFTPBlock || a.window < 1 || a.window > maxTFTPWindow || a.timeout <= 0 {
			t.Errorf("agreed to %+v", a)
		}
	})
}
