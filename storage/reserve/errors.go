package reserve

import (
	"errors"
	"fmt"
)

// What can become of a command, for errors.Is.
var (
	// ErrConflict: the target refused the command because of a reservation or a missing registration. It was
	// not executed.
	ErrConflict = errors.New("reservation conflict")
	// ErrAttention: the target told of a reset, or that registrations or the reservation were taken away. The
	// command was not executed, and what was proven before is proven no more (takeover.Storage.Attention).
	ErrAttention = errors.New("unit attention")
	// ErrUnsupported: the target does not have the command or the option. It was not executed.
	ErrUnsupported = errors.New("not supported by the target")
	// ErrTarget: the target could not execute the command, for a reason of its own. What it did is unknown: a
	// kernel target that cannot save its registrations has registered all the same.
	ErrTarget = errors.New("the target failed")
	// ErrTransport: the path to the target failed. Whether the command was executed is unknown.
	ErrTransport = errors.New("path failed")
	// ErrNoAnswer: no answer in time. Whether the command was or will be executed is unknown.
	ErrNoAnswer = errors.New("no answer in time")
	// ErrForeign: somebody who is not of this cluster has a key or the reservation on the disk.
	ErrForeign = errors.New("foreign reservation")
)

// Error is the end of one command on one device.
type Error struct {
	Device string
	Op     Op
	Kind   error // one of the above
	Detail string
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s: %s: %v", e.Device, e.Op, e.Kind)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// SCSI status bytes (SAM-5, table 34).
const (
	statusGood      = 0x00
	statusCheck     = 0x02
	statusBusy      = 0x08
	statusConflict  = 0x18
	statusTaskFull  = 0x28
	statusTaskAbort = 0x40
)

// verdict tells what a command came to: nil if it was executed. sense is what came with it, if anything.
// host and driver are the kernel's own codes (include/scsi/scsi_status.h): a command that did not get through has
// status 0 and a host code, so the host code is looked at before GOOD is believed.
func verdict(status uint8, sense []byte, host uint16) (s Sense, detail string, kind error) {
	switch {
	case status == statusConflict:
		return s, "", ErrConflict
	case status == statusCheck:
		s, ok := parseSense(sense)
		switch {
		case !ok:
			return s, "it gave no reason", ErrTarget
		case s.Deferred:
			return s, "deferred: " + s.String(), ErrTarget
		case s.Key == senseAttention:
			return s, s.String(), ErrAttention
		case s.Key == senseIllegal && (s.ASC == 0x20 || s.ASC == 0x24 || s.ASC == 0x26 && s.ASCQ != 0x04):
			return s, s.String(), ErrUnsupported
		default:
			return s, s.String(), ErrTarget
		}
	case host != 0:
		return s, hostText(host), ErrTransport
	case status == statusGood:
		return s, "", nil
	case status == statusBusy || status == statusTaskFull:
		return s, "it is busy", ErrTarget
	case status == statusTaskAbort:
		return s, "the command was aborted", ErrTarget
	default:
		return s, fmt.Sprintf("status 0x%02x", status), ErrTarget
	}
}

func hostText(host uint16) string {
	switch host {
	case 0x01:
		return "no connection"
	case 0x03:
		return "the kernel's time limit passed"
	case 0x05, 0x08:
		return "aborted by a reset"
	case 0x0e, 0x0f:
		return "the connection broke"
	default:
		return fmt.Sprintf("host code 0x%02x", host)
	}
}
