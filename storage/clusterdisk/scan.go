package clusterdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Candidate is a disk that could be a cluster disk, by its worldwide name. Device names are only good for as long as
// nobody looks away.
type Candidate struct {
	WWN string
	// Paths are the block devices that are the disk, each a nexus of its own: for its keys.
	Paths []string
	// Map is the multipath device over them, "" if there is none: for reading and writing.
	Map string
}

// Device to read and write it by.
func (c *Candidate) Device() string {
	if c.Map != "" {
		return c.Map
	}
	return c.Paths[0]
}

// Scan lists the disks of this machine that have a worldwide name and are big enough; sys is /sys, dev is /dev. A disk
// without a name cannot be told from another, so it is none.
func Scan(sys, dev string) ([]Candidate, error) {
	block := filepath.Join(sys, "block")
	entries, err := os.ReadDir(block)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for disks: %w", err)
	}
	word := func(name ...string) string {
		data, err := os.ReadFile(filepath.Join(append([]string{block}, name...)...))
		if err != nil {
			return "" // it has gone, or has no such thing
		}
		return strings.TrimSpace(string(data))
	}
	byWWN := map[string]*Candidate{}
	for _, e := range entries {
		name := e.Name()
		sectors, err := strconv.ParseInt(word(name, "size"), 10, 64) // of 512 bytes, whatever the disk's are
		if err != nil || sectors*512 < MinSize {
			continue
		}
		wwn, isMap := word(name, "device", "wwid"), false
		if wwn == "" {
			wwn = word(name, "wwid") // NVMe
		}
		if uuid, is := strings.CutPrefix(word(name, "dm", "uuid"), "mpath-"); is {
			wwn, isMap = uuid, true
		}
		if wwn == "" {
			continue
		}
		c := byWWN[wwn]
		if c == nil {
			c = &Candidate{WWN: wwn}
			byWWN[wwn] = c
		}
		if isMap {
			c.Map = filepath.Join(dev, name)
		} else {
			c.Paths = append(c.Paths, filepath.Join(dev, name))
		}
	}
	var list []Candidate
	for _, c := range byWWN {
		if len(c.Paths) > 0 {
			slices.Sort(c.Paths)
			list = append(list, *c)
		}
	}
	slices.SortFunc(list, func(a, b Candidate) int { return strings.Compare(a.WWN, b.WWN) })
	return list, nil
}
