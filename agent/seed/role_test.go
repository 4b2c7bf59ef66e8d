package seed

import (
	"strings"
	"testing"
)

func TestRole(t *testing.T) {
	for _, tc := range []struct {
		name, seed, cmdline string
		want, err           string
	}{
		{"nothing said", "", "console=ttyS0 quiet\n", RoleNode, ""},
		{"the seed", RoleWitness, "console=ttyS0", RoleWitness, ""},
		{"the command line", "", "quiet skein.role=witness console=ttyS0\n", RoleWitness, ""},
		{"the command line knows better", RoleWitness, "skein.role=node", RoleNode, ""},
		{"the last word counts", "", "skein.role=witness skein.role=node", RoleNode, ""},
		{"another word", "", "xskein.role=witness skein.roles=witness", RoleNode, ""},
		{"misspelt", "", "skein.role=witnes", "", `role "witnes"`},
	} {
		s := &Seed{Role: tc.seed}
		got, err := s.RoleOn(tc.cmdline)
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: got %q, %v, want %q, %q", tc.name, got, err, tc.want, tc.err)
		}
	}
}

func TestRoleInASeed(t *testing.T) {
	s, err := Parse([]byte(`{"cluster":"lab","token":"` + token + `","expect":3,"role":"witness"}`))
	if err != nil || s.Role != RoleWitness {
		t.Errorf("got %+v, %v", s, err)
	}
	if _, err := Parse([]byte(`{"cluster":"lab","token":"` + token + `","expect":3,"role":"arbiter"}`)); err == nil || !strings.Contains(err.Error(), "arbiter") {
		t.Errorf("an unknown role: got %v", err)
	}
}

func FuzzRole(f *testing.F) {
	f.Add("quiet skein.role=witness")
	f.Fuzz(func(t *testing.T, cmdline string) {
		got, err := (&Seed{}).RoleOn(cmdline)
		if err == nil && got != RoleNode && got != RoleWitness {
			t.Errorf("%q: got %q", cmdline, got)
		}
		if got == RoleWitness && !strings.Contains(cmdline, "skein.role=witness") {
			t.Errorf("%q: a witness that nobody asked for", cmdline)
		}
	})
}
