package container

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Errors that callers tell apart.
var (
	// ErrNotFound: there is no such image, blob or container here.
	ErrNotFound = errors.New("not found")
	// ErrDigest: the content is not what its name says. Whoever sent it is broken or lies.
	ErrDigest = errors.New("content does not match its digest")
	// ErrTooLarge: a limit of Limits was exceeded.
	ErrTooLarge = errors.New("too large")
	// ErrManifest: a manifest or index is not what the OCI image specification says.
	ErrManifest = errors.New("not a valid manifest")
	// ErrRunning: the container runs already.
	ErrRunning = errors.New("already running")
	// ErrNotRunning: the container does not run now.
	ErrNotRunning = errors.New("not running")
)

// full adds to ENOSPC what a reader can do about it.
func full(dir string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("the node's image memory (%s) is full; remove images that are not used or give the node more memory: %w", dir, err)
	}
	return err
}
