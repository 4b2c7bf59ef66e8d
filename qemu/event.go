package qemu

import (
	"encoding/json"
	"os"
	"sync"
	"time"
)

// Event is one line of the lab's timeline: what was done to it and what its machines did.
type Event struct {
	Time time.Time `json:"time"`
	Node string    `json:"node,omitempty"` // empty: the lab itself
	Kind EventKind `json:"kind"`
	Text string    `json:"text,omitempty"`
}

// EventKind names what happened.
type EventKind string

const (
	EventPowerOn  EventKind = "power-on"
	EventPowerOff EventKind = "power-off" // the cable was pulled
	EventReset    EventKind = "reset"     // the button was pressed
	EventExited   EventKind = "exited"    // the machine powered off by itself, or its QEMU failed
	EventReboot   EventKind = "reboot"    // the machine restarted by itself
	EventWatchdog EventKind = "watchdog"  // its watchdog bit
	EventAlarm    EventKind = "alarm"     // its console shows a kernel that is in trouble
	EventBoot     EventKind = "boot"      // how far it got in booting from the network
	EventRelaunch EventKind = "relaunch"  // it printed nothing and was started anew
	EventFreeze   EventKind = "freeze"
	EventThaw     EventKind = "thaw"
	EventNetwork  EventKind = "network"
	EventBMC      EventKind = "bmc" // its power controller got an order, or behaves otherwise
	EventSAN      EventKind = "san" // the storage array has followed an order
	EventSave     EventKind = "save"
	EventRestore  EventKind = "restore"
)

// keepEvents bounds the timeline in memory; the file holds all.
const keepEvents = 10000

// timeline keeps events in memory and in a file, one JSON object a line.
type timeline struct {
	mu     sync.Mutex
	events []Event
	file   *os.File
	tell   func(Event)
	gone   int           // events no longer in memory: events[i] has number gone+i
	more   chan struct{} // closed and replaced at each event
}

func newTimeline(path string, tell func(Event)) (*timeline, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &timeline{file: f, tell: tell, more: make(chan struct{})}, nil
}

func (t *timeline) add(node string, kind EventKind, text string) {
	e := Event{time.Now(), node, kind, text}
	t.mu.Lock()
	if len(t.events) >= keepEvents {
		t.events = append(t.events[:0], t.events[keepEvents/10:]...)
		t.gone += keepEvents / 10
	}
	t.events = append(t.events, e)
	close(t.more)
	t.more = make(chan struct{})
	if line, err := json.Marshal(e); err == nil {
		_, _ = t.file.Write(append(line, '\n'))
	}
	t.mu.Unlock()
	if t.tell != nil {
		t.tell(e)
	}
}

func (t *timeline) list() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Event(nil), t.events...)
}

// since returns the events from a number on, the number of the next one, and a channel that is closed
// when there is more.
func (t *timeline) since(from int) (events []Event, next int, more <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := max(from-t.gone, 0)
	return append(events, t.events[min(i, len(t.events)):]...), t.gone + len(t.events), t.more
}

func (t *timeline) close() { t.file.Close() }
