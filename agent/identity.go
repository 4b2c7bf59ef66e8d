package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// identity is what tells this machine and this boot of it from all others.
type identity struct {
	MachineID string
	BootID    string
	Name      string
	CPUs      float64
	Memory    int64 // bytes that services may use
	Witness   bool
}

// agentReserve is what the node keeps for itself: kernel, PID 1, agent, etcd. Services are planned into
// the rest.
const agentReserve = 200 << 20

// readIdentity finds out who this machine is. runDir outlives the agent but not the boot.
func readIdentity(runDir, seedName string) (identity, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, fmt.Errorf("read boot id: %w", err)
	}
	id := identity{BootID: strings.TrimSpace(string(boot)), CPUs: float64(runtime.NumCPU()), Name: seedName}
	if id.MachineID, err = machineID(runDir); err != nil {
		return identity{}, err
	}
	if id.Name == "" {
		id.Name = "node-" + id.MachineID[:8]
	}
	total, err := totalMemory()
	if err != nil {
		return identity{}, err
	}
	id.Memory = max(total-agentReserve, total/4)
	return id, nil
}

// machineID is the SMBIOS UUID. Firmware that gives none, or the same to every board (all zeros, all
// ones), gets a random one that lasts for this boot.
func machineID(runDir string) (string, error) {
	if data, err := os.ReadFile("/sys/class/dmi/id/product_uuid"); err == nil {
		uuid := strings.ToLower(strings.TrimSpace(string(data)))
		if strings.Trim(uuid, "0-") != "" && strings.Trim(uuid, "f-") != "" && len(uuid) == 36 {
			return uuid, nil
		}
	}
	path := filepath.Join(runDir, "machine-id")
	data, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(data)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", err
	}
	id := hex.EncodeToString(raw[:])
	return id, os.WriteFile(path, []byte(id), 0o600)
}

func totalMemory() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemTotal")
}
