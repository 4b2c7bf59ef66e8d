package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/skein-os/skein/qemu/owners"
)

// Result of one step: one line of results.jsonl. Lines of several runs may be put together.
type Result struct {
	Commit string    `json:"commit"`
	Seed   uint64    `json:"seed"`
	Step   int       `json:"step"` // counted from 0 in each run
	Time   time.Time `json:"time"`
	Kind   Kind      `json:"kind"`
	Faults []Fault   `json:"faults"`
	Nodes  int       `json:"nodes"`
	Accel  string    `json:"accel"`
	// Load1 is the machine's one-minute load average when the fault came, Others the share of all its processors
	// that programs outside this lab used during the step, 0 to 1.
	Load1  float64 `json:"load1"`
	Others float64 `json:"others"`
	CPUs   int     `json:"cpus"`

	Addresses []AddressResult `json:"addresses"`
	// Lost are nodes that were declared lost, in order; False those of them that had no fault which allows it, or were
	// lost again after they had come back from it.
	Lost  []string `json:"lost,omitempty"`
	False []string `json:"false,omitempty"`
	// Violations are the double owners on the wire that were found in this step.
	Violations []owners.Violation `json:"violations,omitempty"`
	// Disagree are addresses for which the ledger and the wire name different owners when all is well again.
	Disagree  []string `json:"disagree,omitempty"`
	HealthyMs float64  `json:"healthy_ms"` // from the fault until all was well again
	Failure   string   `json:"failure,omitempty"`
	// Calm is the time for which a run without faults went on (mode -loss), LossPercent and JitterMs what it had to bear.
	Calm        time.Duration `json:"calm_ns,omitempty"`
	LossPercent float64       `json:"loss_percent,omitempty"`
	JitterMs    float64       `json:"jitter_ms,omitempty"`
}

// AddressResult is what one floating address saw of a step.
type AddressResult struct {
	Address string `json:"address"`
	Before  string `json:"before"` // who answered before the fault
	After   string `json:"after"`  // who answers when all is well
	// Hit: the fault was on the node that answered.
	Hit       bool    `json:"hit"`
	OutageMs  float64 `json:"outage_ms"` // the longest gap between two answers to a client outside
	Requests  int     `json:"requests"`
	Failed    int     `json:"failed"`
	Handovers int     `json:"handovers"`
	// DarkMs is for each handover the time between the last frame of the old owner and the first of the new one.
	DarkMs []float64 `json:"dark_ms,omitempty"`
}

// appendResult writes a line and has it on the disk before it returns: a run that is cut off counts.
func appendResult(path string, r any) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		return err
	}
	return f.Sync()
}

// readResults reads the lines of several files. A last line that was cut off is left out.
func readResults(paths []string) ([]Result, error) {
	var all []Result
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		s := bufio.NewScanner(f)
		s.Buffer(nil, 4<<20)
		var cut error // a line that cannot be read: the end of a run that was cut off, if none follows
		for n := 1; s.Scan() && err == nil; n++ {
			var r Result
			switch bad := json.Unmarshal(s.Bytes(), &r); {
			case cut != nil:
				err = cut
			case bad != nil:
				cut = fmt.Errorf("%s:%d: %w", path, n, bad)
			default:
				all = append(all, r)
			}
		}
		if err == nil {
			err = s.Err()
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}
