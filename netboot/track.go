package netboot

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Stage is how far a machine got.
type Stage string

const (
	StageRefused Stage = "refused" // it asked, and there is nothing for it: see Machine.Detail
	StageOffered Stage = "offered" // it was told what to boot
	StageLoader  Stage = "loader"  // it has asked for a boot program
	StageScript  Stage = "script"  // iPXE has its script
	StageKernel  Stage = "kernel"  // the kernel or the unified image is on its way
	StageArchive Stage = "archive" // the last file is on its way
	StageBooted  Stage = "booted"  // it has everything
)

var order = []Stage{StageRefused, StageOffered, StageLoader, StageScript, StageKernel, StageArchive, StageBooted}

// Machine is what is known of one that booted or tries to.
type Machine struct {
	MAC      string        `json:"mac"`
	UUID     string        `json:"uuid,omitempty"`
	Firmware Firmware      `json:"firmware,omitempty"`
	Loader   Loader        `json:"loader,omitempty"`
	Address  netip.Addr    `json:"address,omitzero"` // from which it asked for files
	Stage    Stage         `json:"stage"`
	Since    time.Duration `json:"since"`            // when it got there, on the caller's clock
	Began    time.Duration `json:"began"`            // when this attempt began
	Attempts int           `json:"attempts"`         // how often it began anew
	Detail   string        `json:"detail,omitempty"` // of a refusal or an error
	shape    Shape
}

// maxMachines bounds what strangers can have remembered; the one that was silent for longest goes first.
const maxMachines = 4096

// sameAttempt is how long after the first question of an attempt further ones are its repetitions: firmware asks at 0,
// 4, 8, 16 and 32 s.
const sameAttempt = 10 * time.Second

// Tracker knows how far each machine got. It is pure: now is on any clock that only rises.
type Tracker struct{ machines map[string]*Machine }

// NewTracker knows of no machine.
func NewTracker() *Tracker { return &Tracker{machines: map[string]*Machine{}} }

func (t *Tracker) get(now time.Duration, mac string) *Machine {
	m := t.machines[mac]
	if m == nil {
		if len(t.machines) >= maxMachines {
			var oldest *Machine
			for _, o := range t.machines {
				if oldest == nil || o.Since < oldest.Since {
					oldest = o
				}
			}
			delete(t.machines, oldest.MAC)
		}
		m = &Machine{MAC: mac, Since: now, Began: now}
		t.machines[mac] = m
	}
	return m
}

// Asked notes a question of firmware or iPXE and tells in which shape to answer: the other one if the machine has made
// nothing of the last answer. news: it is no repetition.
func (t *Tracker) Asked(now time.Duration, c Client) (_ Shape, _ Machine, news bool) {
	m := t.get(now, c.MAC.String())
	again := m.Stage == StageOffered && m.Loader == c.Loader
	switch {
	case m.Attempts == 0, c.Loader != IPXE && (!again || now-m.Began >= sameAttempt):
		if again {
			m.shape = 1 - m.shape
		}
		m.Attempts, m.Began = m.Attempts+1, now
	}
	m.UUID, m.Firmware, m.Loader, m.Detail = c.UUID, c.Firmware, c.Loader, ""
	if m.Stage != StageOffered || !again {
		m.Stage, m.Since, news = StageOffered, now, true
	}
	return m.shape, *m, news
}

// Refused notes that there was no answer, and why. news: that was not known.
func (t *Tracker) Refused(now time.Duration, c Client, why error) (_ Machine, news bool) {
	m := t.get(now, c.MAC.String())
	news = m.Stage != StageRefused || m.Detail != why.Error()
	m.UUID, m.Firmware, m.Loader = c.UUID, c.Firmware, c.Loader
	m.Stage, m.Since, m.Detail = StageRefused, now, why.Error()
	return *m, news
}

// Reached notes that a machine got somewhere; a step back within one attempt is no news.
func (t *Tracker) Reached(now time.Duration, mac string, from netip.Addr, s Stage) (_ Machine, news bool) {
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return Machine{}, false // a stranger's word
	}
	m := t.get(now, hw.String())
	if from.IsValid() {
		m.Address = from
	}
	if slices.Index(order, s) > slices.Index(order, m.Stage) {
		m.Stage, m.Since, news = s, now, true
	}
	return *m, news
}

// Machines are all, by MAC.
func (t *Tracker) Machines() []Machine {
	out := make([]Machine, 0, len(t.machines))
	for _, m := range t.machines {
		out = append(out, *m)
	}
	slices.SortFunc(out, func(a, b Machine) int { return cmp.Compare(a.MAC, b.MAC) })
	return out
}
