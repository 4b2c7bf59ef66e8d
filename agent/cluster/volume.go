package cluster

import (
	"fmt"
	"slices"
)

// Volume is a disk that one instance at a time may write, which the disk itself enforces by its reservation.
type Volume struct {
	Name string `json:"name"` // what the service calls it
	Disk string `json:"disk"` // what all nodes know it by: its WWN, never a device's name
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
