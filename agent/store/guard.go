package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Guard says which certificates of the cluster's CA are good still (access.Gate). A voter asks it for each request of
// another node and for each stream, so that a node that was removed is refused on connections that are open, too.
type Guard interface {
	Admit(c *x509.Certificate) error
	// Hold permits something that lasts, and calls end, last after the certificate is not good any more.
	Hold(c *x509.Certificate, last time.Duration, end func()) (release func(), err error)
}

// lastLook is how long a watch of a node that was removed goes on: the node reads there that it was removed, and
// reboots.
const lastLook = time.Second

// callerCert is the certificate that a client of this node's etcd has shown, nil for this process itself.
func callerCert(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

func guardUnary(g Guard) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if c := callerCert(ctx); c != nil {
			if err := g.Admit(c); err != nil {
				return nil, status.Error(codes.PermissionDenied, err.Error())
			}
		}
		return next(ctx, req)
	}
}

func guardStream(g Guard) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		c := callerCert(ss.Context())
		if c == nil {
			return next(srv, ss)
		}
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		release, err := g.Hold(c, lastLook, cancel)
		if err != nil {
			return status.Error(codes.PermissionDenied, err.Error())
		}
		defer release()
		return next(srv, &guarded{ss, ctx})
	}
}

// guarded is a stream that can be ended from this side.
type guarded struct {
	grpc.ServerStream
	ctx context.Context
}

func (g *guarded) Context() context.Context { return g.ctx }

func (g *guarded) RecvMsg(m any) error {
	if g.ctx.Err() != nil {
		return status.Error(codes.PermissionDenied, "the certificate of this node is not good any more")
	}
	return g.ServerStream.RecvMsg(m)
}

func (g *guarded) SendMsg(m any) error {
	if g.ctx.Err() != nil {
		return status.Error(codes.PermissionDenied, "the certificate of this node is not good any more")
	}
	return g.ServerStream.SendMsg(m)
}

// WriteRevoked writes serial numbers, in hexadecimal digits, into a list as etcd reads it at each handshake between
// voters (Config.RevokedFile). etcd takes what is in the file and looks at no signature, so the key that the list is
// signed with is thrown away; the file is this node's own.
func WriteRevoked(path string, serials []string) error {
	fail := func(err error) error { return fmt.Errorf("list of revoked certificates: %w", err) }
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	for _, s := range serials {
		n, ok := new(big.Int).SetString(s, 16)
		if !ok {
			return fail(fmt.Errorf("%q is no serial number", s))
		}
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Unix(0, 0)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, &x509.Certificate{KeyUsage: x509.KeyUsageCRLSign, SubjectKeyId: []byte{1}}, key)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(path+".new", der, 0o600); err != nil {
		return fail(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fail(err)
	}
	return nil
}

// DropPeers breaks the connections that other voters have to this one. Those whose certificate is good connect again in
// some 100 ms, less than an election takes; one that was revoked does not. etcd has no way to close one of them, so
// it is done to the sockets.
func (s *Store) DropPeers() error {
	if s.voter() == nil {
		return nil
	}
	return shutdownAccepted(netip.AddrPortFrom(s.cfg.Addr, uint16(s.cfg.PeerPort)))
}

// shutdownAccepted shuts down this process's connections whose own end is at. Should a descriptor be closed and used
// anew just between look and shutdown, another connection is broken off, which all must bear.
func shutdownAccepted(at netip.AddrPort) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close connections to %s: %w", at, err)
	}
	var errs []error
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		own, err := unix.Getsockname(fd)
		if err != nil || addrPort(own) != at {
			continue
		}
		if _, err := unix.Getpeername(fd); err != nil {
			continue // it listens
		}
		if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EBADF) {
			errs = append(errs, fmt.Errorf("close a connection to %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// ensureRevoked makes an empty list if there is none: etcd refuses everybody without the file.
func ensureRevoked(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return WriteRevoked(path, nil)
}

// Reconnect opens the connections to other voters anew, with this node's certificate as it is now. Who uses one goes
// on with another.
func (s *Store) Reconnect() {
	s.mu.Lock()
	var endpoints []string
	old := s.conns
	for _, c := range old {
		endpoints = append(endpoints, c.endpoint)
	}
	s.conns = nil
	s.mu.Unlock()
	s.setEndpoints(endpoints)
	for _, c := range old {
		_ = c.client.Close()
	}
}
