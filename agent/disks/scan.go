package disks

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
	scsi "github.com/skein-os/skein/storage/disk"
)

// Seen is a disk as this node sees it.
type Seen struct {
	WWN       string `json:"wwn"`
	Model     string `json:"model,omitempty"` // vendor and model
	Size      int64  `json:"size_bytes"`
	BlockSize int    `json:"block_size_bytes"`
	// Shared: it is on a SAN, and used through a multipath map, also over one path.
	Shared bool   `json:"shared,omitempty"`
	Paths  []Path `json:"paths"`
	// Device is what is mounted: the map over the paths, or the only path. Empty: there is no map yet.
	Device string    `json:"device,omitempty"`
	Map    *MapState `json:"map,omitempty"`
}

// MapState is how a disk's map is.
type MapState struct {
	Name        string    `json:"name"`
	Closed      bool      `json:"closed,omitempty"`       // no claim uses it: all I/O fails
	Queueing    bool      `json:"queueing,omitempty"`     // I/O waits for a path
	NoPathSince time.Time `json:"no_path_since,omitzero"` // since when no path works
	GaveUp      bool      `json:"gave_up,omitempty"`      // it has waited too long: I/O fails until a path is back
	Error       string    `json:"error,omitempty"`        // of the last change
}

// Path is one block device of the kernel that leads to the disk.
type Path struct {
	Name      string `json:"name"`   // sdb
	Dev       string `json:"device"` // major:minor
	State     string `json:"state"`  // the kernel's: running, offline, blocked, ...
	Transport string `json:"transport,omitempty"`
	Portal    string `json:"portal,omitempty"`
	Target    string `json:"target,omitempty"`
	// The rest is there while the disk has a map. Use is up, failed, not admitted, ...
	Use      string    `json:"use,omitempty"`
	Because  string    `json:"because,omitempty"` // why it is not up
	Since    time.Time `json:"since,omitzero"`
	Failures uint64    `json:"failures,omitempty"`
	Access   string    `json:"access,omitempty"` // ALUA's state of its target port
}

// usable: the kernel sends I/O down it.
func (p *Path) usable() bool { return p.State == "running" || p.State == "live" || p.State == "" }

// usable are the paths that the kernel uses; all, if it says that it uses none.
func (s *Seen) usable() []Path {
	var out []Path
	for _, p := range s.Paths {
		if p.usable() {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return s.Paths
	}
	return out
}

func (s *Seen) devs() []string {
	var out []string
	for _, p := range s.Paths {
		out = append(out, p.Dev)
	}
	return out
}

// name is the kernel's name of a path, its number if it has gone.
func (s *Seen) name(dev string) string {
	if i := slices.IndexFunc(s.Paths, func(p Path) bool { return p.Dev == dev }); i >= 0 {
		return s.Paths[i].Name
	}
	return dev
}

// Scanner finds the disks of this node.
type Scanner interface {
	Scan() ([]Seen, error)
	// Rescan has the kernel ask a disk's paths for their size again.
	Rescan(wwn string) error
}

// System is the Scanner of a sysfs tree.
type System struct{ Sys scsi.Sys }

// Scan lists disks by their worldwide name. One that has none is left out: nothing can be promised of it.
func (s System) Scan() ([]Seen, error) {
	list, err := s.Sys.Scan()
	if err != nil {
		return nil, err
	}
	var out []Seen
	for _, d := range list {
		if cluster.CheckWWN(d.WWN) != nil {
			continue
		}
		seen := Seen{WWN: d.WWN, Model: strings.TrimSpace(d.Vendor + " " + d.Model), Size: d.Size, BlockSize: d.BlockSize}
		for _, p := range d.Paths {
			seen.Paths = append(seen.Paths, Path{Name: p.Name, Dev: p.Dev, State: p.State, Transport: p.Transport, Portal: p.Portal, Target: p.Target})
			// NVMe has multipath of its own below one device; virtio has one path, and the host the rest.
			seen.Shared = seen.Shared || p.HCTL != "" && p.Transport != "virtio"
		}
		if !seen.Shared {
			seen.Device = "/dev/" + d.Paths[0].Name
		}
		out = append(out, seen)
	}
	return out, nil
}

// Rescan asks all paths that the kernel uses.
func (s System) Rescan(wwn string) error {
	list, err := s.Sys.Scan()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range list {
		for _, p := range d.Paths {
			if d.WWN == wwn {
				_, err := s.Sys.Rescan(p)
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
