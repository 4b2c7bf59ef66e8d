package iscsi

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Sessions lists the kernel's iSCSI sessions in the sysfs tree at root, also those that iscsid knows nothing of
// because it was started anew. A session that is being made or taken away is left out.
func Sessions(root string) ([]Session, error) {
	dir := filepath.Join(root, "class/iscsi_session")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the module is not loaded
	}
	if err != nil {
		return nil, fmt.Errorf("list iSCSI sessions: %w", err)
	}
	var out []Session
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "session")
		id, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		conn := filepath.Join(root, "class/iscsi_connection", "connection"+number+":0")
		var v [4]string
		for i, f := range []string{
			filepath.Join(dir, e.Name(), "targetname"), filepath.Join(dir, e.Name(), "state"),
			filepath.Join(conn, "persistent_address"), filepath.Join(conn, "persistent_port"),
		} {
			data, err := os.ReadFile(f)
			if err != nil {
				break
			}
			v[i] = strings.TrimSpace(string(data))
		}
		addr, errA := netip.ParseAddr(v[2])
		port, errP := strconv.ParseUint(v[3], 10, 16)
		if errA != nil || errP != nil || v[0] == "" {
			continue
		}
		out = append(out, Session{Portal{v[0], netip.AddrPortFrom(addr, uint16(port))}, id, State(v[1])})
	}
	return out, nil
}
