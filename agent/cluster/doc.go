// Package cluster holds the facts that all of Skein speaks about: nodes, services, instances, images
// and events. It is plain data with JSON tags: what is stored in the cluster's ledger (etcd), what the
// planner reads and what the API shows. It has no behaviour beyond naming and comparing.
//
// Two writers never share a record. What should be (Service, Instance) is written by operators and by
// the coordinator; what is (Status) is written only by the node that runs it. Every ownership carries an
// epoch that only rises, so that whoever acts late can be told apart and refused.
package cluster
