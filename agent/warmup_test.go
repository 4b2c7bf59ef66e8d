package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestExitProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exit")
	if err := os.WriteFile(path, exitProgram(), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("got %v, %q, want an end without a word", err, out)
	}
}
