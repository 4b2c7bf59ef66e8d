package job

import (
	"encoding/json"
	"testing"
	"time"
)

// Whatever a node says, nothing breaks, and the other nodes' tasks are recorded once.
func FuzzPull(f *testing.F) {
	f.Add([]byte(`{"node":"bad","life":"x","hello":true,"cpus":4,"free":4}`))
	f.Add([]byte(`{"node":"bad","life":"x","hello":true,"cpus":1e300,"free":-1e300,"room_bytes":-5,"leases":[{"job":"sim-1","id":1,"from":-5,"to":999999}]}`))
	f.Add([]byte(`{"node":"bad","life":"x","term":1,"free":3,"cpus":3,"reports":[{"seq":1,"job":"sim-1","lease":16777217,"results":[{"p":-1},{"p":3,"c":1},{"p":3,"u":true}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSim(t, simSpec(40), 2, 2)
		for _, n := range s.nodes {
			s.step(n, false)
		}
		var p Pull
		if json.Unmarshal(data, &p) != nil || p.Node == "n1" || p.Node == "n2" {
			return
		}
		for range 3 {
			if s.table.Take(&p, s.now) {
				s.table.Answer(&p, true, s.now)
			} else {
				p.Hello = true
			}
			s.now += 10 * time.Millisecond
		}
		s.table.Dead(p.Node, Off)
		s.run(time.Hour, nil)
		s.check()
	})
}
