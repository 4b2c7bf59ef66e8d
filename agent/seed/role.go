package seed

import (
	"fmt"
	"strings"
)

// What a machine is for.
const (
	RoleNode    = "node"    // runs services, and votes if it is chosen to
	RoleWitness = "witness" // only votes: the third voice of two nodes
)

// roleWord is the word of the kernel's command line that names the role: what whoever writes the boot entry of
// one machine can say without another seed.
const roleWord = "skein.role="

func checkRole(role string) error {
	if role != "" && role != RoleNode && role != RoleWitness {
		return fmt.Errorf("role %q must be %s or %s", role, RoleNode, RoleWitness)
	}
	return nil
}

// RoleOn is the role that a kernel's command line names, or else the seed's. A role that cannot be understood
// is an error: a witness that was misspelt would be given services.
func (s *Seed) RoleOn(cmdline string) (string, error) {
	role := s.Role
	for word := range strings.FieldsSeq(cmdline) {
		if r, ok := strings.CutPrefix(word, roleWord); ok {
			role = r
		}
	}
	if role == "" {
		role = RoleNode
	}
	if err := checkRole(role); err != nil {
		return "", fmt.Errorf("kernel's command line: %w", err)
	}
	return role, nil
}
