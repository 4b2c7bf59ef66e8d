package reserve

import (
	"errors"
	"fmt"
)

// Outcome is what became of a command, for a nexus of another machine: an Answer or an Error as JSON.
type Outcome struct {
	Answer Answer `json:"answer,omitzero"`
	Kind   string `json:"kind,omitempty"` // of the error, empty: none
	Detail string `json:"detail,omitempty"`
}

var kinds = map[string]error{
	"conflict": ErrConflict, "attention": ErrAttention, "unsupported": ErrUnsupported, "target": ErrTarget,
	"transport": ErrTransport, "no-answer": ErrNoAnswer,
}

// NewOutcome is that of a command which gave a and err. An error that is no outcome of a command is returned.
func NewOutcome(a Answer, err error) (Outcome, error) {
	if err == nil {
		return Outcome{Answer: a}, nil
	}
	var e *Error
	if errors.As(err, &e) {
		for name, kind := range kinds {
			if e.Kind == kind {
				return Outcome{Kind: name, Detail: e.Detail}, nil
			}
		}
	}
	return Outcome{}, err
}

// Result is what Nexus.Exec gives. device is the nexus's name.
func (o Outcome) Result(device string, op Op) (Answer, error) {
	if o.Kind == "" {
		return o.Answer, nil
	}
	kind := kinds[o.Kind]
	if kind == nil {
		return Answer{}, fmt.Errorf("%s: %s: unknown outcome %q", device, op, o.Kind)
	}
	return Answer{}, &Error{Device: device, Op: op, Kind: kind, Detail: o.Detail}
}

// Testing tells whether a command may be one of a self-test: it changes only registrations of self-tests, or writes one
// block. The error says why not.
func (c Codec) Testing(cmd Command) error {
	for _, k := range []Key{cmd.Key, cmd.New, cmd.Victim} {
		if k != 0 && !c.isTest(k) {
			return fmt.Errorf("%s with key %s is not of a self-test", cmd.Op, k)
		}
	}
	if _, err := cmd.encode(512); err != nil {
		return err
	}
	return nil
}
