package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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
	// Removing: it is unmounted everywhere, and then forgotten.
	Removing bool `json:"removing,omitempty"`
	// Offline: it is unmounted everywhere and stays so.
	Offline bool `json:"offline,omitempty"`
	// Checked by a boot of a node, whose check may be writing to the disk; nobody mounts it until that has ended.
	Checked *BootOf `json:"checked,omitempty"`
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

// Wanted tells whether nodes are to have it mounted.
func (r *SharedRecord) Wanted() bool { return r.Ready && !r.Removing && !r.Offline && r.Checked == nil }

// CheckRuns tells whether a check of it may still be under way.
func (s *State) CheckRuns(r *SharedRecord) bool {
	if r.Checked == nil {
		return false
	}
	n := s.Node(r.Checked.Node)
	return n == nil || n.BootID == r.Checked.BootID
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

// SharedUse is a folder of a shared file system in a service's containers, on every node that runs one.
type SharedUse struct {
	Name   string `json:"name"`   // the file system's; empty in what is asked for: the only one
	Folder string `json:"folder"` // below the file system's root; made when it is missing
	Target string `json:"target"`
	// ReadOnly is for the container.
	ReadOnly bool   `json:"read_only,omitempty"`
	At       string `json:"at,omitempty"` // file:line:column; the ledger has none
}

// sharedFolder is what a folder at a shared file system's root may be called.
func sharedFolder(name string) bool {
	return name != "" && len(name) <= 128 && name[0] != '.' && !strings.ContainsAny(name, "/\x00")
}

// ResolveShares fills in which shared file systems a service's folders are on, and tells which of them it cannot have.
func (s *State) ResolveShares(svc *Service) error {
	for i := range svc.Shares {
		u := &svc.Shares[i]
		err := s.resolveShare(svc, u, svc.Shares[:i])
		if err != nil && u.At != "" {
			return fmt.Errorf("%s: service %s: %w", u.At, svc.FullName(), err)
		}
		if err != nil {
			return fmt.Errorf("service %s: %w", svc.FullName(), err)
		}
		u.At = ""
	}
	return nil
}

func (s *State) resolveShare(svc *Service, u *SharedUse, before []SharedUse) error {
	switch {
	case !sharedFolder(u.Folder):
		return fmt.Errorf("%q is no folder of a shared file system", u.Folder)
	case u.Target == "":
		return fmt.Errorf("folder %s of a shared file system needs a path in the container", u.Folder)
	case slices.ContainsFunc(before, func(o SharedUse) bool { return o.Target == u.Target }):
		return fmt.Errorf("%s is there twice", u.Target)
	}
	if u.Name == "" {
		if len(s.Shared) != 1 {
			var names []string
			for i := range s.Shared {
				names = append(names, s.Shared[i].Name)
			}
			if len(names) == 0 {
				return errors.New("there is no shared file system: make one with 'skein shared create NAME --disk DISK'")
			}
			return fmt.Errorf("there are several shared file systems (%s): say which with driver_opts: {filesystem: NAME}", strings.Join(names, ", "))
		}
		u.Name = s.Shared[0].Name
	}
	switch r := s.SharedFS(u.Name); {
	case r == nil:
		return fmt.Errorf("there is no shared file system %s: 'skein shared ls' lists them", u.Name)
	case r.Removing:
		return fmt.Errorf("shared file system %s is being removed", u.Name)
	case r.Offline:
		return fmt.Errorf("shared file system %s is offline: 'skein shared online %s' has the nodes mount it", u.Name, u.Name)
	case !r.Ready:
		return fmt.Errorf("shared file system %s is not made yet", u.Name)
	}
	return nil
}

// SharedUser names a service that has a folder on a shared file system, or an instance of it that has not ended; empty:
// nobody.
func (s *State) SharedUser(name string) string {
	uses := func(list []SharedUse) bool {
		return slices.ContainsFunc(list, func(u SharedUse) bool { return u.Name == name })
	}
	for i := range s.Services {
		if uses(s.Services[i].Shares) {
			return s.Services[i].FullName()
		}
	}
	for i := range s.Instances {
		if uses(s.Instances[i].Spec.Shares) {
			return s.Instances[i].Spec.FullName()
		}
	}
	return ""
}

// CheckNewShared tells why a shared file system cannot be made.
func (s *State) CheckNewShared(r *SharedRecord) error {
	if err := r.Check(); err != nil {
		return err
	}
	if s.SharedFS(r.Name) != nil {
		return fmt.Errorf("shared file system %s is there already; 'skein shared show %s' shows it", r.Name, r.Name)
	}
	d := s.Disk(r.Disk)
	switch {
	case d == nil:
		return fmt.Errorf("disk %s is not enrolled: 'skein disk ls' lists what nodes see, 'skein disk enrol %s' tests it and makes it this cluster's", r.Disk, r.Disk)
	case d.Cluster != s.Meta.ID:
		return fmt.Errorf("disk %s belongs to another cluster (ID %s)", d.Name(), d.Cluster)
	}
	if o := s.VolumeOn(d.WWN); o != nil {
		return fmt.Errorf("disk %s has volume %s: export another LUN for this file system", d.Name(), o.Name)
	}
	if o := s.SharedOn(d.WWN); o != nil {
		return fmt.Errorf("disk %s has the shared file system %s already", d.Name(), o.Name)
	}
	if s.LedgerDisk != nil && s.LedgerDisk.WWN == d.WWN {
		return fmt.Errorf("disk %s is the cluster disk", d.Name())
	}
	if need := int64(r.Journals)*sharedJournal + MinVolume; d.Size < need {
		return fmt.Errorf("disk %s has %d bytes: %d journals need %d", d.Name(), d.Size, r.Journals, need)
	}
	return nil
}

// sharedJournal is what a journal of GFS2 takes at least, bytes (mkfs.gfs2: 8 MiB; it takes more if there is room).
const sharedJournal = 8 << 20
