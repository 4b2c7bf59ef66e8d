package main

import (
	"fmt"
	"testing"
)

func TestParseAddresses(t *testing.T) {
	for _, tt := range []struct{ cmdline, want string }{
		{"console=ttyS0 san.addresses=10.77.0.250/24,10.77.1.250/24 panic=-1\n", "[10.77.0.250/24 10.77.1.250/24]"},
		{"san.addresses=10.77.0.250", "[]"},
		{"console=ttyS0", "[]"},
	} {
		got, err := parseAddresses(tt.cmdline)
		if fmt.Sprint(got) != tt.want || (err == nil) != (tt.want != "[]") {
			t.Errorf("%q: got %v, %v, want %s", tt.cmdline, got, err, tt.want)
		}
	}
}
