package tree

import (
	"errors"
	"os"
	"path/filepath"
)

// ReplaceFile writes a result of the build. It never leaves half a file under its final name.
func ReplaceFile(name string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(name), ".build-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return err
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
