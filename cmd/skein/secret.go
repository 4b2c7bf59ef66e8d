package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// readSecret reads a secret from a file, or from the standard input for "-": never from the command line,
// which others can see. The newline at its end is not part of it.
func readSecret(cmd *cobra.Command, name string) (string, error) {
	r := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("password: %w", err)
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, 4097))
	if err != nil {
		return "", fmt.Errorf("password: %w", err)
	}
	if len(data) > 4096 {
		return "", errors.New("password: more than 4096 bytes")
	}
	return strings.TrimRight(string(data), "\r\n"), nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
