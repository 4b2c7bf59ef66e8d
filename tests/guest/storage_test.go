package guest

import (
	"strings"
	"testing"
)

// TestStorageModules loads what the image has for storage, on the node's kernel.
func TestStorageModules(t *testing.T) {
	console := boot(t, nil, "github.com/skein-os/skein/storage/modules", "-test.v", "-test.run=GuestLoad")
	if !strings.Contains(console, "--- PASS: TestGuestLoad") {
		t.Error("TestGuestLoad did not pass in the guest")
	}
}
