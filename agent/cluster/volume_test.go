package cluster

import "testing"

func TestCheckVolumes(t *testing.T) {
	one := []Volume{{Name: "data", Disk: "wwn-1"}}
	for name, c := range map[string]struct {
		s  Service
		ok bool
	}{
		"none":                {Service{Safety: SafetyLease, Replicas: 3}, true},
		"one":                 {Service{Safety: SafetyStorage, Replicas: 1, Volumes: one}, true},
		"two":                 {Service{Safety: SafetyStorage, Replicas: 1, Volumes: []Volume{{Name: "a", Disk: "1"}, {Name: "b", Disk: "2"}}}, true},
		"storage without":     {Service{Safety: SafetyStorage, Replicas: 1}, false},
		"of another class":    {Service{Safety: SafetyLease, Replicas: 1, Volumes: one}, false},
		"two instances":       {Service{Safety: SafetyStorage, Replicas: 2, Volumes: one}, false},
		"on every node":       {Service{Safety: SafetyStorage, Mode: ModeGlobal, Volumes: one}, false},
		"the same disk":       {Service{Safety: SafetyStorage, Replicas: 1, Volumes: []Volume{{Name: "a", Disk: "1"}, {Name: "b", Disk: "1"}}}, false},
		"the same name":       {Service{Safety: SafetyStorage, Replicas: 1, Volumes: []Volume{{Name: "a", Disk: "1"}, {Name: "a", Disk: "2"}}}, false},
		"a disk of no name":   {Service{Safety: SafetyStorage, Replicas: 1, Volumes: []Volume{{Name: "a", Disk: ""}}}, false},
		"a volume of no name": {Service{Safety: SafetyStorage, Replicas: 1, Volumes: []Volume{{Name: "", Disk: "1"}}}, false},
	} {
		if err := c.s.CheckVolumes(); (err == nil) != c.ok {
			t.Errorf("%s: got %v, want ok %v", name, err, c.ok)
		}
	}
}
