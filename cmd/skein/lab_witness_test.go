package main

import (
	"testing"

	"github.com/skein-os/skein/agent/seed"
	"github.com/skein-os/skein/qemu"
)

func TestNextMachineOfALab(t *testing.T) {
	c, err := newLabCluster(t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string, number int) qemu.Status {
		return qemu.Status{Name: name, Addresses: []string{qemu.Addr(0, number).String(), qemu.Addr(1, number).String()}}
	}
	lab := []qemu.Status{at("n1", 1), at("n2", 2), at("witness", 3)}
	for _, tc := range []struct {
		name     string
		machines []qemu.Status
		witness  bool
		want     string
		number   int
		role     string
	}{
		{"after a witness", lab, false, "n4", 4, ""},
		{"in a gap", []qemu.Status{at("n2", 2)}, false, "n1", 1, ""},
		{"a witness", lab[:2], true, "witness", 3, seed.RoleWitness},
		{"a second witness", lab, true, "n4", 4, seed.RoleWitness},
	} {
		n, err := c.next(tc.machines, tc.witness)
		if err != nil {
			t.Fatal(err)
		}
		s, err := seed.Parse(n.Seed)
		if err != nil || n.Name != tc.want || n.Number != tc.number || s.Name != tc.want || s.Role != tc.role {
			t.Errorf("%s: got %s with number %d and role %q, %v; want %s, %d, %q", tc.name, n.Name, n.Number, s.Role, err, tc.want, tc.number, tc.role)
		}
	}
}
