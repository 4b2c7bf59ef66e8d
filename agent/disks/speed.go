package disks

import (
	"context"
	"time"

	"github.com/skein-os/skein/storage/speed"
)

// Speed reads a disk by its map, if it has one now, and by each of its paths, and tells how fast that was. It does not write.
func (m *Manager) Speed(ctx context.Context, wwn string, during time.Duration) ([]speed.Result, error) {
	s, err := m.find(wwn)
	if err != nil {
		return nil, err
	}
	var devices []string
	if mp := m.deviceOf(s); mp != "" && s.Shared {
		devices = append(devices, mp)
	}
	for _, p := range s.Paths {
		devices = append(devices, "/dev/"+p.Name)
	}
	if len(devices) == 0 {
		devices = append(devices, s.Device)
	}
	return speed.Measure(ctx, devices, during)
}
