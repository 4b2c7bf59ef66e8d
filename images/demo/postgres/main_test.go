package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ env, file, want, err string }{
		{"direct", "", "direct", ""},
		{"", file, "from a file", ""},
		{"direct", file, "", "leave one out"},
		{"", file + ".gone", "", "POSTGRES_PASSWORD_FILE"},
		{"", "", "", "without a password"},
	} {
		got, err := password(func(name string) string {
			return map[string]string{"POSTGRES_PASSWORD": c.env, "POSTGRES_PASSWORD_FILE": c.file}[name]
		})
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q and file %q: got %q, %v", c.env, c.file, got, err)
		}
	}
}

// TestForeignFilesStay: a volume that holds something else is not made a database of.
func TestForeignFilesStay(t *testing.T) {
	data := filepath.Join(t.TempDir(), "pgdata")
	letter := filepath.Join(data, "letter")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(letter, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := create(data, func(string) string { return "secret" })
	if err == nil || !strings.Contains(err.Error(), "letter") {
		t.Errorf("got %v, want it to name what is there", err)
	}
	if _, err := os.Stat(letter); err != nil {
		t.Error(err)
	}
}
