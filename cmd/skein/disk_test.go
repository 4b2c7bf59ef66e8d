package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiskTestAsksFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, in string
		args     []string
		want     string
	}{
		{"no answer", "", []string{file}, "nothing was done"},
		{"another name", "/dev/sda\n", []string{file}, "nothing was done"},
		{"not a disk", file + "\n", []string{file}, "it is no block device"},
		{"not there", "", []string{"--yes", file + "x"}, "no such file"},
	} {
		cmd := rootCommand()
		var out bytes.Buffer
		cmd.SetIn(strings.NewReader(tt.in))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"disk", "test"}, tt.args...))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}
