package seed

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

const token = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

func TestParse(t *testing.T) {
	for _, tc := range []struct{ name, data, want string }{
		{"good", `{"cluster":"lab","token":"` + token + `","expect":3,"name":"n1"}`, ""},
		{"padded by the firmware", `{"cluster":"lab","token":"` + token + `","expect":1}` + "\n\x00\x00", ""},
		{"not JSON", `cluster=lab`, "not valid JSON"},
		{"misspelt field", `{"cluster":"lab","tokn":"x"}`, "tokn"},
		{"no cluster", `{"token":"` + token + `","expect":1}`, "cluster name"},
		{"bad name", `{"cluster":"lab","name":"N 1","token":"` + token + `","expect":1}`, "node name"},
		{"short token", `{"cluster":"lab","token":"abcd","expect":1}`, "64 hex digits"},
		{"expects nobody", `{"cluster":"lab","token":"` + token + `"}`, "expect is 0"},
		{"small network", `{"cluster":"lab","token":"` + token + `","expect":1,"network":"10.0.0.0/24"}`, "/16"},
		{"network with host bits", `{"cluster":"lab","token":"` + token + `","expect":1,"network":"10.80.1.0/16"}`, "/16"},
		{"bad operator", `{"cluster":"lab","token":"` + token + `","expect":1,"operators":["ann"]}`, "operator"},
	} {
		s, err := Parse([]byte(tc.data))
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want == "" && s.Network.Bits() != 16:
			t.Errorf("%s: got network %s, want the default", tc.name, s.Network)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error tells the token: %v", tc.name, err)
		}
	}
}

func TestReadWithoutSeed(t *testing.T) {
	if _, err := Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNone) {
		t.Errorf("got %v, want ErrNone", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"cluster":"lab","token":"` + token + `","expect":3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := Parse(data); err == nil && (s.Expect < 1 || !s.Network.IsValid()) {
			t.Errorf("accepted %+v", s)
		}
	})
}
