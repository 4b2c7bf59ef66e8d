package admission

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// Bounds of what a member remembers of machines that wait. It is in memory only: strangers write nothing into the
// ledger but events, few of them.
const (
	maxApplicants        = 64
	maxApplicantsOfOne   = 4 // of one address
	forgetApplicantAfter = 45 * time.Second
)

// applicants are the machines that ask this member. Who came first stays: a flood hides nobody that was there
// before, and who does not get in can still be approved by the code on its console. Time is that of any clock that
// only rises.
type applicants struct {
	list []applicant
}

type applicant struct {
	cluster.Applicant
	key         string // SHA-256 of the public key
	first, last time.Duration
}

// ask notes that a machine asks. fresh: it did not wait here before.
func (t *applicants) ask(now time.Duration, key string, a cluster.Applicant) (fresh bool, err error) {
	t.forget(now)
	same := 0
	for i := range t.list {
		w := &t.list[i]
		if w.key == key {
			a.Code = w.Code
			w.Applicant, w.last = a, now
			return false, nil
		}
		if w.From == a.From {
			same++
		}
	}
	switch {
	case same >= maxApplicantsOfOne:
		return false, fmt.Errorf("%d machines at %s wait already: approve this one by the code on its console", same, a.From)
	case len(t.list) >= maxApplicants:
		return false, fmt.Errorf("%d machines wait already: approve this one by the code on its console", len(t.list))
	}
	t.list = append(t.list, applicant{a, key, now, now})
	return true, nil
}

func (t *applicants) forget(now time.Duration) {
	t.list = slices.DeleteFunc(t.list, func(a applicant) bool { return now-a.last > forgetApplicantAfter })
}

func (t *applicants) remove(key string) {
	t.list = slices.DeleteFunc(t.list, func(a applicant) bool { return a.key == key })
}

func addrOf(host string) netip.Addr {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap().WithZone("")
}
