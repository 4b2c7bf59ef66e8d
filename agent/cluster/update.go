package cluster

import "time"

// UpdatePolicy says how the instances of a service are replaced when its specification changes: Compose's
// deploy.update_config and deploy.rollback_config.
type UpdatePolicy struct {
	Parallelism int           `json:"parallelism,omitempty"` // how many instances at once; 0: all
	Delay       time.Duration `json:"delay,omitempty"`       // between two such groups
	// Monitor is how long a new instance is watched after it has begun to run, before the next is replaced: one that
	// ends or turns unhealthy in that time has failed.
	Monitor    time.Duration `json:"monitor,omitempty"`
	StartFirst bool          `json:"start_first,omitempty"` // a new instance runs before an old one is stopped
	// FailureAction is what happens when more than MaxFailureRatio of the instances have failed.
	FailureAction   FailureAction `json:"failure_action,omitempty"`
	MaxFailureRatio float64       `json:"max_failure_ratio,omitempty"` // 0 to 1
}

// FailureAction is what becomes of an update that fails.
type FailureAction string

const (
	FailurePause    FailureAction = "pause"    // what is not replaced yet stays as it is
	FailureContinue FailureAction = "continue" // it goes on
	FailureRollback FailureAction = "rollback" // what ran before comes back
)

// DefaultUpdate is the policy of a service that has none.
var DefaultUpdate = UpdatePolicy{Parallelism: 1, Monitor: 5 * time.Second, FailureAction: FailurePause}

// UpdateState is where an update is. Only the coordinator changes it, but for its beginning.
type UpdateState string

const (
	UpdateRunning     UpdateState = "updating"
	UpdateCompleted   UpdateState = "completed"
	UpdatePaused      UpdateState = "paused"       // it failed
	UpdateRollingBack UpdateState = "rolling back" // it failed, or somebody asked for it
	UpdateRolledBack  UpdateState = "rolled back"
)

// Going tells that instances are being replaced.
func (s UpdateState) Going() bool { return s == UpdateRunning || s == UpdateRollingBack }

// Update is the newest change of a service's specification.
type Update struct {
	Stack   string      `json:"stack"`
	Service string      `json:"service"`
	State   UpdateState `json:"state"`
	Hash    string      `json:"hash"` // of the specification it goes to
	// Before is what ran before, to go back to; nil: there is nothing.
	Before  *Service  `json:"before,omitempty"`
	Message string    `json:"message,omitempty"` // why it failed
	Began   time.Time `json:"began"`             // wall clock, for people only

	Revision int64 `json:"-"`
}

// Key is the ledger's key of the record.
func (u *Update) Key() string { return UpdateKey(u.Stack, u.Service) }

// UpdateKey is the key of a service's update.
func UpdateKey(stack, service string) string { return KeyUpdates + stack + "/" + service }

// Update is the newest change of a service, nil if there was none.
func (s *State) Update(stack, service string) *Update {
	for i := range s.Updates {
		if u := &s.Updates[i]; u.Stack == stack && u.Service == service {
			return u
		}
	}
	return nil
}

// Policy is how the service's instances are replaced, back or forth.
func (s *Service) Policy(back bool) UpdatePolicy {
	p := s.Update
	if back {
		p = s.Rollback
	}
	if p == nil {
		return DefaultUpdate
	}
	return *p
}

// StartsFirst tells whether a new instance of the service may run beside an old one: not if what it has, it has alone.
func (s *Service) StartsFirst(back bool) bool {
	return s.Policy(back).StartFirst && s.Mode == ModeReplicated && s.Safety == SafetyLease && len(s.Floating) == 0 && len(s.Volumes) == 0
}

// GoBack is the change that has the service be again what it was before its update u. Keep: what it is now can be gone
// back to in turn.
func (s *Service) GoBack(u *Update, keep bool, why string) Txn {
	back := *u.Before
	back.Revision = 0
	next := Update{Stack: u.Stack, Service: u.Service, State: UpdateRollingBack, Hash: back.Hash, Message: why, Began: u.Began}
	if keep {
		now := *s
		next.Before = &now
	}
	return Txn{
		Conditions: []Condition{{Key: s.Key(), Revision: s.Revision}, {Key: u.Key(), Revision: u.Revision}},
		Puts:       []Put{{Key: s.Key(), Value: back}, {Key: u.Key(), Value: next}},
		Events:     []Event{{Kind: EventService, Subject: s.FullName(), Text: "goes back to what it was before its update", Why: why}},
	}
}
