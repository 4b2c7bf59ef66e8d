// Package pki makes and checks the certificates of a cluster: one CA, made by the first node, and below
// it nodes and people. The role is the certificate's organisation, the name its common name, and its subject's serial
// number says out of which state of the ledger it was signed (Stamp); a certificate of any other shape has no role.
//
// It promises that what a wall clock shows, on whichever side, never makes a certificate of the cluster fail: all are
// valid from 1970 to the end of the year 9999. That a certificate has ended, or was revoked, is for package access to
// say, which compares its stamp with the ledger.
//
// A renewed certificate is for the same key, so it replaces one file at once; servers and clients read it at each
// handshake (ServerTLS, ClientTLS, etcd), and nothing has to be restarted.
package pki
