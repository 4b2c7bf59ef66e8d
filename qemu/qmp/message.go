package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Desc) }

// Event is something QEMU reports by itself: STOP, RESET, WATCHDOG, MIGRATION and so on.
type Event struct {
	Name string
	Time time.Time
	Data json.RawMessage
}

// message is any one line from QEMU; exactly one of its parts is set.
type message struct {
	greeting json.RawMessage
	ret      json.RawMessage
	fail     *Error
	event    *Event
	id       uint64
}

// parse reads one line from QEMU.
func parse(line []byte) (message, error) {
	var w struct {
		QMP       json.RawMessage `json:"QMP"`
		Return    json.RawMessage `json:"return"`
		Error     *Error          `json:"error"`
		Event     string          `json:"event"`
		Data      json.RawMessage `json:"data"`
		ID        uint64          `json:"id"`
		Timestamp struct {
			Seconds      int64 `json:"seconds"`
			Microseconds int64 `json:"microseconds"`
		} `json:"timestamp"`
	}
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("not a QMP message: %w", err)
	}
	m := message{greeting: w.QMP, ret: w.Return, fail: w.Error, id: w.ID}
	parts := 0
	for _, set := range []bool{w.QMP != nil, w.Return != nil, w.Error != nil, w.Event != ""} {
		if set {
			parts++
		}
	}
	if parts != 1 {
		return message{}, errors.New("not a QMP message: neither greeting, return, error nor event")
	}
	if w.Event != "" {
		m.event = &Event{Name: w.Event, Data: w.Data,
			Time: time.Unix(w.Timestamp.Seconds, w.Timestamp.Microseconds*1000)}
	}
	return m, nil
}
