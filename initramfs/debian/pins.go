package debian

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Pin is the version of a package that the build wants.
type Pin struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the .deb
	// Follow names a package that depends on the current successor of this one, for packages that have
	// their version in their name and so leave the archive altogether (linux-image-6.1.0-56-amd64).
	Follow string `json:"follow,omitempty"`
}

// Pins: package name to pin.
type Pins map[string]Pin

//go:embed pins.json
var pinsJSON []byte

// DefaultPins are the pins that this version of Skein is built and tested with, for amd64.
func DefaultPins() (Pins, error) { return ParsePins(pinsJSON) }

// ParsePins reads pins.json.
func ParsePins(data []byte) (Pins, error) {
	var pins Pins
	if err := json.Unmarshal(data, &pins); err != nil {
		return nil, fmt.Errorf("pins.json: %w", err)
	}
	for name, pin := range pins {
		if !validName(name) || (pin.Follow != "" && !validName(pin.Follow)) {
			return nil, fmt.Errorf("pins.json: %q is not a package name", name)
		}
		if !validVersion(pin.Version) {
			return nil, fmt.Errorf("pins.json: %s: %q is not a version", name, pin.Version)
		}
		if sum, err := hex.DecodeString(pin.SHA256); err != nil || len(sum) != 32 {
			return nil, fmt.Errorf("pins.json: %s: %q is not a SHA-256 in hex", name, pin.SHA256)
		}
	}
	return pins, nil
}

// validName and validVersion are Debian policy 5.6.7 and 5.6.12. Names and versions become file names
// and arguments of apt-get, so anything else is refused.
func validName(s string) bool {
	for i, c := range s {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return len(s) >= 2
}

func validVersion(s string) bool {
	for i, c := range s {
		digit := c >= '0' && c <= '9'
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !digit && (i == 0 || !letter && c != '.' && c != '+' && c != '-' && c != '~' && c != ':') {
			return false
		}
	}
	return s != ""
}
