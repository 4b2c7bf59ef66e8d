package cluster

import (
	"fmt"
	"slices"
)

// Volume is a disk that one instance at a time may write, which the disk itself enforces by its reservation.
type Volume struct {
	Name string `json:"name"` // the volume's, see VolumeRecord
	Disk string `json:"disk"` // what all nodes know it by: its WWN, never a device's name
	// Target is where the container finds it. Empty: it is reserved and not mounted.
	Target   string `json:"target,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"` // in the container; its journal is replayed all the same
	FS       string `json:"fs,omitempty"`
	UUID     string `json:"uuid,omitempty"` // of the file system that must be on it
	// Asked is what the operator wrote of it. The ledger has none: ResolveVolumes takes it away.
	Asked *VolumeAsked `json:"asked,omitempty"`
}

// VolumeAsked is what a Compose file says of a volume, for the answer to whether there is such a one.
type VolumeAsked struct {
	At   string `json:"at,omitempty"` // file:line:column
	Size int64  `json:"size_bytes,omitempty"`
	FS   string `json:"fs,omitempty"`
	Disk string `json:"disk,omitempty"` // WWN or alias
}

// LeaseGuards tells whether the end of a lost owner's lease is proof enough for the floating addresses of a
// service of this class. Unknown classes get the strict answer.
func (s Safety) LeaseGuards() bool { return s == SafetyLease || s == SafetyStorage }

// CheckVolumes tells what is wrong with the volumes of a service; nil if nothing is.
func (s *Service) CheckVolumes() error {
	switch {
	case s.Safety == SafetyStorage && len(s.Volumes) == 0:
		return fmt.Errorf("service %s: safety storage needs a volume: without one its effects are not on a reserved disk", s.FullName())
	case s.Safety != SafetyStorage && len(s.Volumes) > 0:
		return fmt.Errorf("service %s: it has volumes, so its safety must be storage, not %q", s.FullName(), s.Safety)
	case len(s.Volumes) > 0 && (s.Mode == ModeGlobal || s.Replicas > 1):
		return fmt.Errorf("service %s: a reserved volume has one writer, so there can be one instance only", s.FullName())
	}
	for i, v := range s.Volumes {
		if v.Name == "" || v.Disk == "" {
			return fmt.Errorf("service %s: volume %d needs a name and a disk", s.FullName(), i+1)
		}
		if slices.ContainsFunc(s.Volumes[:i], func(o Volume) bool { return o.Name == v.Name || o.Disk == v.Disk }) {
			return fmt.Errorf("service %s: volume %s or its disk %s is there twice", s.FullName(), v.Name, v.Disk)
		}
	}
	return nil
}
