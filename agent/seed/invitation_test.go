package seed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadInvitation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	if s, err := ReadInvitation(path); s != "" || err != nil {
		t.Errorf("no file: got %q, %v", s, err)
	}
	secret := strings.Repeat("5a", 32)
	for text, good := range map[string]bool{secret + "\n": true, secret + "\x00": true, secret: true, "5a": false, strings.Repeat("xy", 32): false, "": false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := ReadInvitation(path); (err == nil) != good || good && s != secret || err != nil && strings.Contains(err.Error(), "5a5a") {
			t.Errorf("%q: got %q, %v, want good %v", text, s, err, good)
		}
	}
}
