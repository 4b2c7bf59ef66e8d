package debian

import (
	"strings"
	"testing"
)

func TestDefaultPins(t *testing.T) {
	pins, err := DefaultPins()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"crun", "libc6", "ca-certificates", "nginx", "busybox-static"} {
		if _, ok := pins[name]; !ok {
			t.Errorf("%s is not pinned", name)
		}
	}
}

func TestParsePinsRefuses(t *testing.T) {
	const sum = `"sha256": "3d3fdbe91d4660c873e14b092c213fe81c1da6362daa236eb25d0171eb108744"`
	tests := map[string]string{
		`{"../x": {"version": "1", ` + sum + `}}`:                  "not a package name",
		`{"-o": {"version": "1", ` + sum + `}}`:                    "not a package name",
		`{"crun": {"version": "1/../..", ` + sum + `}}`:            "not a version",
		`{"crun": {"version": "", ` + sum + `}}`:                   "not a version",
		`{"crun": {"version": "1", "sha256": "12"}}`:               "not a SHA-256",
		`{"crun": {"version": "1", "follow": "a b", ` + sum + `}}`: "not a package name",
		`{"crun": `: "pins.json",
	}
	for text, want := range tests {
		if _, err := ParsePins([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", text, err, want)
		}
	}
	if _, err := ParsePins([]byte(`{"libc6": {"version": "1:2.36-9+deb12u14~bpo", ` + sum + `}}`)); err != nil {
		t.Error(err)
	}
}
