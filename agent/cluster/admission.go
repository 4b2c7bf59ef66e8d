package cluster

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// KeyAdmission is Admission's key, one record.
const KeyAdmission = KeyRoot + "admission"

// Admission is what operators have decided about machines that have no token.
type Admission struct {
	Verdicts []Verdict   `json:"verdicts,omitempty"`
	Allowed  []Allowance `json:"allowed,omitempty"`

	Revision int64 `json:"-"`
}

// Bounds of an Admission's lists: it is one record, and read with every request.
const (
	MaxVerdicts   = 256
	MaxAllowances = 1000
	maxDenials    = 64 // older ones are forgotten: who was denied makes a new key anyway after a reboot
)

// Verdict is about one key. An approval is used up by the admission.
type Verdict struct {
	Code     string    `json:"code"` // as on the machine's console
	Approved bool      `json:"approved"`
	Name     string    `json:"name,omitempty"` // what the node is to be called; empty: as it asks
	By       string    `json:"by"`             // operator
	At       time.Time `json:"at"`             // for people
}

// Allowance lets in every machine that says it has this address or number. It proves nothing: all three can be
// claimed by anybody on the wire.
type Allowance struct {
	Kind  string    `json:"kind"` // AllowMAC, AllowSerial or AllowUUID
	Value string    `json:"value"`
	By    string    `json:"by"`
	At    time.Time `json:"at"`
}

// Kinds of allowances.
const (
	AllowMAC    = "mac"
	AllowSerial = "serial"
	AllowUUID   = "uuid"
)

// Applicant is a machine that asks to join and waits for an operator. All but code and address is what it says of
// itself.
type Applicant struct {
	Code      string        `json:"code"` // of its key and of the cluster's CA
	Name      string        `json:"name"`
	MachineID string        `json:"uuid"`
	BootID    string        `json:"boot_id"`
	Serial    string        `json:"serial,omitempty"`
	Model     string        `json:"model,omitempty"`
	Links     []Link        `json:"links"`
	From      netip.Addr    `json:"from"`       // where its request came from
	Waiting   time.Duration `json:"waiting_ns"` // since its first request to this member
	Member    string        `json:"asked"`      // which member it asks
	Note      string        `json:"note,omitempty"`
}

// Verdict finds what was decided about a code, nil if nothing was. a may be nil.
func (a *Admission) Verdict(code string) *Verdict {
	if a == nil {
		return nil
	}
	for i := range a.Verdicts {
		if a.Verdicts[i].Code == code {
			return &a.Verdicts[i]
		}
	}
	return nil
}

// With is a with a verdict, which replaces an earlier one about the same code.
func (a *Admission) With(v Verdict) Admission {
	next := a.Without(v.Code)
	next.Verdicts = append(next.Verdicts, v)
	denials := 0
	for _, v := range next.Verdicts {
		if !v.Approved {
			denials++
		}
	}
	next.Verdicts = slices.DeleteFunc(next.Verdicts, func(v Verdict) bool {
		if v.Approved || denials <= maxDenials {
			return false
		}
		denials--
		return true
	})
	return next
}

// Without is a without the verdict about a code.
func (a *Admission) Without(code string) Admission {
	var next Admission
	if a != nil {
		next = *a
	}
	next.Verdicts = slices.DeleteFunc(slices.Clone(next.Verdicts), func(v Verdict) bool { return v.Code == code })
	return next
}

// Allows finds what lets a machine in, nil if nothing does.
func (a *Admission) Allows(uuid, serial string, links []Link) *Allowance {
	if a == nil {
		return nil
	}
	for i := range a.Allowed {
		w := &a.Allowed[i]
		switch w.Kind {
		case AllowUUID:
			if strings.EqualFold(w.Value, uuid) {
				return w
			}
		case AllowSerial:
			if w.Value == serial {
				return w
			}
		case AllowMAC:
			if slices.ContainsFunc(links, func(l Link) bool { return strings.EqualFold(l.MAC, w.Value) }) {
				return w
			}
		}
	}
	return nil
}
