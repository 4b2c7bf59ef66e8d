package cluster

import (
	"errors"
	"fmt"
	"time"

	"github.com/skein-os/skein/storage/shared"
)

// SharedRecord is a file system that all nodes mount at once, on one whole disk.
type SharedRecord struct {
	Name     string `json:"name"` // also in its lock manager
	Disk     string `json:"disk"` // WWN
	Journals int    `json:"journals"`
	// Ready: the file system is made. Until then nobody is let in.
	Ready bool `json:"ready"`
	// Membership is who uses it. Only the coordinator writes it, on condition that this record is as it was.
	Membership shared.Membership `json:"membership"`
	CreatedBy  string            `json:"created_by"` // the operator
	Created    time.Time         `json:"created"`    // wall clock, for people only

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the file system.
func (r *SharedRecord) Key() string { return KeyShared + r.Name }

// maxSharedName, in characters, is what mkfs.gfs2 takes at most.
const maxSharedName = 30

// Check tells what is wrong with the record; nil if nothing is.
func (r *SharedRecord) Check() error {
	switch {
	case !storageName.MatchString(r.Name):
		return fmt.Errorf("shared file system %q: a name has lower-case letters, digits, dashes and underscores", r.Name)
	case len(r.Name) > maxSharedName:
		return fmt.Errorf("shared file system %s: a name has %d letters at most", r.Name, maxSharedName)
	case r.Journals < 1 || r.Journals > shared.MaxMembers:
		return fmt.Errorf("shared file system %s: %d journals; it takes one for each node that uses it at once, 1 to %d", r.Name, r.Journals, shared.MaxMembers)
	}
	return errors.Join(CheckWWN(r.Disk), r.Membership.Validate())
}

// SharedReport is what a node says of itself and one shared file system, the newest.
type SharedReport struct {
	FileSystem string        `json:"file_system"`
	Node       string        `json:"node"`
	Report     shared.Report `json:"report"`

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the report.
func (r *SharedReport) Key() string { return KeyReports + r.FileSystem + "/" + r.Node }

// SharedMember is a node as a member of shared file systems, in this boot.
func (s *State) SharedMember(n *Node) shared.Member {
	return shared.Member{Node: n.Name, ID: uint32(n.Number), Incarnation: n.Epoch, Address: s.Meta.Network.NodeAddr(n.Number)}
}

// SharedFS finds a shared file system by its name, nil if there is none.
func (s *State) SharedFS(name string) *SharedRecord {
	for i := range s.Shared {
		if s.Shared[i].Name == name {
			return &s.Shared[i]
		}
	}
	return nil
}

// SharedOn finds the shared file system on a disk, nil if there is none.
func (s *State) SharedOn(wwn string) *SharedRecord {
	for i := range s.Shared {
		if s.Shared[i].Disk == wwn {
			return &s.Shared[i]
		}
	}
	return nil
}

// SharesWith finds a shared file system that a node is a member of, in whichever boot; nil if there is none.
func (s *State) SharesWith(node string) *SharedRecord {
	for i := range s.Shared {
		for _, m := range s.Shared[i].Membership.Members {
			if m.Node == node {
				return &s.Shared[i]
			}
		}
	}
	return nil
}
