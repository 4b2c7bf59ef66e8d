package seed

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// FwCfgInvitation is the name of the firmware configuration file that holds an invitation: a secret that admits one
// machine, once, to the cluster whose CA its kernel's command line names.
const FwCfgInvitation = "opt/org.skein-os/invitation"

// FwCfgInvitationPath is where the guest's kernel shows it.
const FwCfgInvitationPath = "/sys/firmware/qemu_fw_cfg/by_name/" + FwCfgInvitation + "/raw"

// ReadInvitation reads the invitation of this machine from path, empty if it has none.
func ReadInvitation(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read this machine's invitation: %w", err)
	}
	s := strings.TrimRight(string(data), "\x00\r\n ")
	if raw, err := hex.DecodeString(s); err != nil || len(raw) != 32 {
		return "", errors.New("this machine's invitation must be 64 hex digits, as 'skein node invite add' writes them")
	}
	return s, nil
}
