// Package proxy lets curl, browsers and the skein command into the lab's networks through one port on
// the host's loopback, which speaks SOCKS5 (RFC 1928, without authentication, CONNECT only) and HTTP
// (CONNECT and absolute-form requests).
//
// It reaches only what its Dial reaches, and listens only on loopback. Each HTTP request gets a
// connection of its own, so that a machine that died between two requests does not take the second
// with it.
package proxy
