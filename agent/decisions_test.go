package agent

import (
	"slices"
	"testing"

	"github.com/skein-os/skein/agent/store"
)

func TestExpired(t *testing.T) {
	list := []store.Entry{{Key: "a", Data: make([]byte, 10)}, {Key: "b", Data: make([]byte, 10)}, {Key: "c", Data: make([]byte, 10)}}
	for _, c := range []struct {
		name        string
		most, bytes int
		want        []string
	}{
		{"all fit", 3, 30, nil},
		{"too many", 2, 1000, []string{"a"}},
		{"too large together", 3, 29, []string{"a"}},
		{"the newest alone is too large", 3, 9, []string{"a", "b", "c"}},
		{"none are kept", 0, 1000, []string{"a", "b", "c"}},
	} {
		if got := expired(list, c.most, c.bytes); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
