package reserve

import "fmt"

// Sense is why a disk did not execute a command: sense key, additional code and qualifier (SPC-4, 4.5).
type Sense struct {
	Key      uint8
	ASC      uint8
	ASCQ     uint8
	Deferred bool // it is about an earlier command
}

// Sense keys that matter here.
const (
	senseIllegal   = 0x5
	senseAttention = 0x6
)

func (s Sense) String() string {
	code := fmt.Sprintf("%02x/%02x/%02x", s.Key, s.ASC, s.ASCQ)
	if text, ok := senseTexts[[2]uint8{s.ASC, s.ASCQ}]; ok {
		return text + " (" + code + ")"
	}
	return code
}

var senseTexts = map[[2]uint8]string{
	{0x08, 0x00}: "logical unit communication failure",
	{0x20, 0x00}: "the target does not know the command",
	{0x24, 0x00}: "invalid field in the command",
	{0x25, 0x00}: "no such logical unit",
	{0x26, 0x00}: "invalid field in the parameter list",
	{0x26, 0x04}: "invalid release of a reservation",
	{0x29, 0x00}: "power on or reset",
	{0x2a, 0x03}: "reservations preempted",
	{0x2a, 0x04}: "reservations released",
	{0x2a, 0x05}: "registrations preempted",
	{0x2f, 0x00}: "commands cleared by another initiator",
	{0x55, 0x04}: "no room for another registration",
}

// parseSense reads sense data in fixed or descriptor format. ok is false if there is none to be read.
func parseSense(b []byte) (s Sense, ok bool) {
	if len(b) == 0 {
		return s, false
	}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		if len(b) < 3 {
			return s, false
		}
		s = Sense{Key: b[2] & 0xf, Deferred: b[0]&1 != 0}
		if len(b) >= 14 && b[7] >= 6 { // the additional length says that the codes are there
			s.ASC, s.ASCQ = b[12], b[13]
		}
		return s, true
	case 0x72, 0x73:
		if len(b) < 4 {
			return s, false
		}
		return Sense{Key: b[1] & 0xf, ASC: b[2], ASCQ: b[3], Deferred: b[0]&1 != 0}, true
	default:
		return s, false
	}
}

// passing tells a unit attention that says nothing of reservations, so that the command may simply be sent
// again. What is not listed is taken as serious: that costs a takeover begun anew, the contrary costs data.
func (s Sense) passing() bool {
	switch s.ASC {
	case 0x28: // medium may have changed, import or export element accessed
		return s.ASCQ != 0
	case 0x2a: // parameters changed: mode, log, ALUA state, priority, identifying information, capacity
		switch s.ASCQ {
		case 0x00, 0x01, 0x02, 0x06, 0x07, 0x08, 0x09:
			return true
		}
	case 0x2f: // commands of ours were cleared, as by a preemption of an old key of this nexus; or power loss
		return false
	case 0x38: // thin provisioning soft threshold
		return true
	case 0x3f: // operating definition, inquiry data, list of LUNs have changed
		return s.ASCQ == 0x03 || s.ASCQ == 0x0e
	}
	return false
}
