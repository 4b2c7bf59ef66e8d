package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Keep draws a run into folder/name.svg, making the folder if need be, and returns the file's path.
func (r *Run) Keep(folder, name string) (string, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("make the folder for timelines: %w", err)
	}
	path := filepath.Join(folder, name+".svg")
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("draw the timeline: %w", err)
	}
	if err := errors.Join(r.WriteSVG(f, name), f.Close()); err != nil {
		return "", fmt.Errorf("draw the timeline %s: %w", path, err)
	}
	return path, nil
}
