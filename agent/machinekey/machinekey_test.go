package machinekey

import (
	"os"
	"strings"
	"testing"

	"github.com/skein-os/skein/agent/pki"
)

func TestKeyIsKeptForOneCluster(t *testing.T) {
	s := &Store{t.TempDir()}
	a, b := strings.Repeat("0a", 32), strings.Repeat("0b", 32)
	if key, err := s.Read(a); key != nil || err != nil {
		t.Fatalf("nothing was kept: got %v, %v", key, err)
	}
	first, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(a, first); err != nil {
		t.Fatal(err)
	}
	if key, err := s.Read(a); err != nil || key == nil || !key.Equal(first) {
		t.Errorf("got %v, %v, want the key that was kept", key, err)
	}
	if key, err := s.Read(b); key != nil || err != nil {
		t.Errorf("another cluster's: got %v, %v, want none", key, err)
	}
	// The machine goes to another cluster, with a key that is of another length in the variable.
	second, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(b, second); err != nil {
		t.Fatal(err)
	}
	if key, err := s.Read(b); err != nil || key == nil || !key.Equal(second) {
		t.Errorf("got %v, %v, want the second key", key, err)
	}
	if key, err := s.Read(a); key != nil || err != nil {
		t.Errorf("the first cluster's: got %v, %v, want none", key, err)
	}
	if err := s.Write("none", first); err == nil {
		t.Error("a key was kept for no cluster")
	}
	if err := os.WriteFile(s.path(), []byte("\x07\x00\x00\x00SkeinKey1 and not more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if key, err := s.Read(a); key != nil || err == nil {
		t.Errorf("a broken variable: got %v, %v, want an error", key, err)
	}
}

func FuzzDecode(f *testing.F) {
	key, err := pki.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	data, err := encode(strings.Repeat("0a", 32), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:60])
	f.Fuzz(func(t *testing.T, data []byte) {
		ca, key, err := decode(data)
		if err != nil {
			return
		}
		again, err := encode(ca, key)
		if err != nil {
			t.Fatal(err)
		}
		if ca2, key2, err := decode(again); err != nil || ca2 != ca || !key2.Equal(key) {
			t.Errorf("%s was written as %s, %v", ca, ca2, err)
		}
	})
}
