package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// MaxLine is the longest line, in bytes without its end, that either side reads.
	// A will of the greatest size fits.
	MaxLine = 32 << 10
	// MaxReason is how many bytes of a reason are kept, so that a reason never makes a line too long.
	MaxReason = 512
	// History is how many exits PID 1 remembers for the next agent.
	History = 1024

	// maxTimeMS is the latest time since boot that is believed: a hundred years.
	maxTimeMS = int64(100 * 365 * 24 * time.Hour / time.Millisecond)
)

// RequestOp is what the agent asks of PID 1.
type RequestOp string

// The requests. Any other is refused by ParseRequest.
const (
	Feed         RequestOp = "feed"          // the agent is well: feed the watchdog
	Reboot       RequestOp = "reboot"        // stop in order and restart the machine
	Poweroff     RequestOp = "poweroff"      // stop in order and power off
	StopServices RequestOp = "stop-services" // kill everything in the services' cgroup, now
	SetWill      RequestOp = "will"          // what to send when the agent has ended
	Bind         RequestOp = "bind"          // from now on feed the watchdog only so that the machine is off at UntilMS
	Unbind       RequestOp = "unbind"        // feed it as if there had been no Bind
)

// Request is one line from the agent to PID 1.
type Request struct {
	Op     RequestOp `json:"op"`
	Reason string    `json:"reason,omitempty"`
	// AtMS is when the agent was well, in milliseconds of CLOCK_BOOTTIME. PID 1 counts from this moment and
	// not from when it read the line: a line that waited in the socket must not prolong the machine's life.
	// Zero means the moment of reading.
	AtMS int64 `json:"at_ms,omitempty"`
	Will *Will `json:"will,omitempty"` // of SetWill
	// UntilMS, of Bind, is when the machine must be off, in milliseconds of CLOCK_BOOTTIME.
	UntilMS int64 `json:"until_ms,omitempty"`
}

// EventOp is what PID 1 tells the agent.
type EventOp string

// The events.
const (
	Exit     EventOp = "exit"     // an orphan ended
	Replayed EventOp = "replayed" // all remembered exits were sent; what follows is news
	// Bound: the watchdog is fed only so that the machine is off at UntilMS. It answers every Bind that was
	// taken, and is told to a new agent if the one before had the watchdog bound.
	Bound EventOp = "bound"
)

// Event is one line from PID 1 to the agent. PID and what follows belong to Exit.
type Event struct {
	Op     EventOp `json:"op"`
	PID    int     `json:"pid,omitempty"`
	Code   int     `json:"code"`             // exit status, when Signal is 0
	Signal int     `json:"signal,omitempty"` // the signal that ended it, or 0
	AtMS   int64   `json:"at_ms,omitempty"`  // when it was reaped, in milliseconds of CLOCK_BOOTTIME
	// UntilMS belongs to Bound.
	UntilMS int64 `json:"until_ms,omitempty"`
}

// At is when the process was reaped, counted on CLOCK_BOOTTIME.
func (e Event) At() time.Duration { return time.Duration(e.AtMS) * time.Millisecond }

// LineError is one line that could not be used. The reader has skipped it and can go on.
type LineError struct{ Why error }

func (e *LineError) Error() string { return "control line skipped: " + e.Why.Error() }
func (e *LineError) Unwrap() error { return e.Why }

var errTooLong = fmt.Errorf("longer than %d bytes", MaxLine)

// ParseRequest reads one line of the agent.
func ParseRequest(line []byte) (Request, error) {
	var r Request
	if len(line) > MaxLine {
		return Request{}, errTooLong
	}
	if err := json.Unmarshal(line, &r); err != nil {
		return Request{}, fmt.Errorf("not a request: %w", err)
	}
	switch r.Op {
	case Feed, Reboot, Poweroff, StopServices, Unbind:
		r.Will, r.UntilMS = nil, 0
	case Bind:
		r.Will = nil
		if r.UntilMS <= 0 || r.UntilMS > maxTimeMS {
			return Request{}, fmt.Errorf("until_ms %d is not a time since boot", r.UntilMS)
		}
	case SetWill:
		if err := r.Will.check(); err != nil {
			return Request{}, fmt.Errorf("will: %w", err)
		}
		r.UntilMS = 0
	default:
		return Request{}, fmt.Errorf("unknown request %.40q", r.Op)
	}
	if r.AtMS < 0 || r.AtMS > maxTimeMS {
		return Request{}, fmt.Errorf("at_ms %d is not a time since boot", r.AtMS)
	}
	r.Reason = clip(r.Reason)
	return r, nil
}

// ParseEvent reads one line of PID 1.
func ParseEvent(line []byte) (Event, error) {
	var e Event
	if len(line) > MaxLine {
		return Event{}, errTooLong
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return Event{}, fmt.Errorf("not an event: %w", err)
	}
	switch {
	case e.Op == Replayed:
	case e.Op == Bound && e.UntilMS > 0 && e.UntilMS <= maxTimeMS:
	case e.Op == Bound:
		return Event{}, fmt.Errorf("until_ms %d is not a time since boot", e.UntilMS)
	case e.Op == Exit && e.PID > 0:
	case e.Op == Exit:
		return Event{}, errors.New("exit of no process")
	default:
		return Event{}, fmt.Errorf("unknown event %.40q", e.Op)
	}
	return e, nil
}

// AppendLine appends v, a Request or an Event, as a line.
func AppendLine[M Request | Event](b []byte, v M) []byte {
	line, err := json.Marshal(v)
	if err != nil { // plain structs of strings and numbers
		panic(fmt.Sprintf("control: marshal %T: %v", v, err))
	}
	return append(append(b, line...), '\n')
}

// Lines reads lines of at most MaxLine bytes from r.
type Lines struct{ r *bufio.Reader }

// NewLines returns a reader of lines from r.
func NewLines(r io.Reader) *Lines { return &Lines{bufio.NewReaderSize(r, MaxLine+1)} }

// Next returns the next line without its end, valid until the next call. A line that is too long is skipped
// whole and returned as a *LineError; a last line without an end is no line (its writer died writing it).
func (l *Lines) Next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if err == nil {
		return line[:len(line)-1], nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = l.r.ReadSlice('\n')
	}
	if err != nil {
		return nil, err
	}
	return nil, &LineError{errTooLong}
}

// clip shortens a reason to MaxReason bytes and to one line of printable text: it ends up on the console.
func clip(s string) string {
	out := make([]rune, 0, min(len(s), MaxReason))
	n := 0
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		if n += len(string(r)); n > MaxReason {
			break
		}
		out = append(out, r)
	}
	return string(out)
}
