// Package pki makes and checks the certificates of a cluster: one CA, made by the first node, and below
// it nodes and operators. The role is the certificate's organisation, the name its common name; a
// certificate of any other shape has no role.
//
// It promises that a certificate made here is accepted by nodes whose clocks differ by years in one
// direction: validity begins at the beginning of 2020, because machines without a working clock start
// in the past and must be able to join before they have the time. The other direction (a clock ahead by
// more than the validity) is refused by TLS and told at joining.
package pki
