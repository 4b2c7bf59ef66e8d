package pid1

import (
	"encoding/json"
	"fmt"
	"os"
)

// RunDir is where the node's state lives; it is a tmpfs.
const RunDir = "/run/skein"

// ReportPath is where PID 1 leaves its Report for the agent.
const ReportPath = RunDir + "/boot.json"

// Softdog is the identity of the kernel's own timer: a watchdog that is as dead as the kernel.
const Softdog = "Software Watchdog"

// Report is how the machine booted. Times are milliseconds since the kernel's start.
type Report struct {
	StartMS int64 `json:"start_ms"` // PID 1's first line of code
	ArmedMS int64 `json:"armed_ms"` // the watchdog runs; 0 if there is none
	ReadyMS int64 `json:"ready_ms"` // the agent is about to be started

	Watchdog         string `json:"watchdog,omitempty"`           // its identity; "Software Watchdog" is softdog
	WatchdogTimeoutS int    `json:"watchdog_timeout_s,omitempty"` // as the driver took it
	WatchdogError    string `json:"watchdog_error,omitempty"`
	ResetByWatchdog  bool   `json:"reset_by_watchdog,omitempty"` // the last reset was done by it (not all drivers know)

	ModulesLoaded int      `json:"modules_loaded"`
	ModulesAbsent []string `json:"modules_absent,omitempty"` // their hardware is not here
	ModulesFailed []string `json:"modules_failed,omitempty"` // with the reason
}

func (r Report) write() error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write boot report: %w", err)
	}
	if err := os.WriteFile(ReportPath, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write boot report: %w", err)
	}
	return nil
}
