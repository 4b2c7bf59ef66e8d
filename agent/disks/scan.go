package disks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-os/skein/agent/cluster"
)

// Seen is a disk as this node sees it.
type Seen struct {
	WWN       string `json:"wwn"`
	Model     string `json:"model,omitempty"` // vendor and model
	Size      int64  `json:"size_bytes"`
	BlockSize int    `json:"block_size_bytes"`
	Paths     []Path `json:"paths"`
	// Device is what is mounted: the map over the paths, or the only path. Empty: several paths and no map.
	Device string `json:"device,omitempty"`
}

// Path is one block device of the kernel that leads to the disk.
type Path struct {
	Name  string `json:"name"`  // sdb
	State string `json:"state"` // the kernel's: running, offline, blocked, ...
}

// Scanner finds the disks of this node.
type Scanner interface {
	Scan() ([]Seen, error)
}

// Sysfs is the Scanner that reads the kernel's tree, /sys by default. It finds SCSI disks, and others that have
// a worldwide name.
type Sysfs struct{ Root string }

// Scan lists disks by their worldwide name. One that has none is left out: nothing can be promised of it.
func (s Sysfs) Scan() ([]Seen, error) {
	root := cmp.Or(s.Root, "/sys")
	entries, err := os.ReadDir(filepath.Join(root, "block"))
	if err != nil {
		return nil, fmt.Errorf("list block devices: %w", err)
	}
	disks, maps := map[string]*Seen{}, map[string]string{}
	for _, e := range entries {
		dir := filepath.Join(root, "block", e.Name())
		wwn, err := firstText(filepath.Join(dir, "device/wwid"), filepath.Join(dir, "wwid"))
		if err != nil {
			return nil, err
		}
		wwn = strings.Join(strings.Fields(strings.Trim(wwn, "\x00")), "_")
		if cluster.CheckWWN(wwn) != nil {
			continue
		}
		sectors, err := number(filepath.Join(dir, "size"))
		if errors.Is(err, os.ErrNotExist) {
			continue // it went away while we looked
		}
		if err != nil {
			return nil, err
		}
		block, err := number(filepath.Join(dir, "queue/logical_block_size"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		vendor, _ := firstText(filepath.Join(dir, "device/vendor"))
		model, _ := firstText(filepath.Join(dir, "device/model"))
		state, _ := firstText(filepath.Join(dir, "device/state"))
		d := disks[wwn]
		if d == nil {
			d = &Seen{WWN: wwn, Model: strings.TrimSpace(vendor + " " + model), Size: sectors * 512, BlockSize: int(block)}
			disks[wwn] = d
		}
		d.Paths = append(d.Paths, Path{Name: e.Name(), State: state})
		holders, err := os.ReadDir(filepath.Join(dir, "holders"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for _, h := range holders {
			if id, _ := firstText(filepath.Join(root, "block", h.Name(), "dm/uuid")); strings.HasPrefix(id, "mpath-") {
				maps[wwn] = h.Name()
			}
		}
	}
	var out []Seen
	for _, d := range disks {
		switch m := maps[d.WWN]; {
		case m != "":
			d.Device = "/dev/" + m
		case len(d.Paths) == 1:
			d.Device = "/dev/" + d.Paths[0].Name
		}
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Seen) int { return cmp.Compare(a.WWN, b.WWN) })
	return out, nil
}

// firstText is the content of the first of the files that is there, "" if none is.
func firstText(names ...string) (string, error) {
	for _, n := range names {
		data, err := os.ReadFile(n)
		switch {
		case err == nil:
			return strings.TrimSpace(string(data)), nil
		case errors.Is(err, os.ErrNotExist):
		default: // the device gives none: ENXIO, EINVAL
			return "", nil
		}
	}
	return "", nil
}

func number(name string) (int64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}
