package cluster

import (
	"net/netip"
	"time"
)

// Mode says how many instances a service has.
type Mode string

const (
	ModeReplicated Mode = "replicated" // Replicas instances, anywhere
	ModeGlobal     Mode = "global"     // one on each node
	ModeJob        Mode = "job"        // Replicas instances that run to completion once
)

// Safety is the proof that is needed of a lost owner before the service may run elsewhere
// (DESIGN: the ladder of proof).
type Safety string

const (
	// SafetyLease: every lasting effect is behind the lease guard of the floating address (or there is
	// none at all); the guard's expiry is proof enough.
	SafetyLease Safety = "lease"
	// SafetyStorage: every lasting effect is on its Volumes or behind the lease guard. It is started when its
	// volumes are reserved for it alone (L0), and answers on its floating addresses when the lease has ended.
	SafetyStorage Safety = "storage"
	// SafetyPower: has effects that no guard covers; needs the owner's power to be off, read back, or
	// the owner back in a new boot.
	SafetyPower Safety = "power"
)

// Service is what an operator wants to run, made from a Compose file.
type Service struct {
	Stack string `json:"stack"`
	Name  string `json:"name"`
	Mode  Mode   `json:"mode"`
	// Replicas is the number of instances wanted in modes replicated and job.
	Replicas int    `json:"replicas"`
	Safety   Safety `json:"safety"`

	Image       string            `json:"image"`                  // reference as written
	ImageDigest string            `json:"image_digest,omitempty"` // manifest digest it was resolved to at deploy
	Entrypoint  []string          `json:"entrypoint,omitempty"`   // nil: the image's
	Command     []string          `json:"command,omitempty"`      // nil: the image's
	Env         map[string]string `json:"env,omitempty"`
	User        string            `json:"user,omitempty"`
	WorkingDir  string            `json:"working_dir,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Tmpfs       []string          `json:"tmpfs,omitempty"`    // mount points, writable, in memory
	Writable    bool              `json:"writable,omitempty"` // root file system writable (read_only: false)
	CapAdd      []string          `json:"cap_add,omitempty"`  // on top of the small default set
	CapDrop     []string          `json:"cap_drop,omitempty"` // from the small default set
	Files       []File            `json:"files,omitempty"`    // Compose configs with content, mounted read-only
	StopSignal  string            `json:"stop_signal,omitempty"`
	StopGrace   time.Duration     `json:"stop_grace"` // SIGKILL after this; 10 s by default

	Limits      Resources    `json:"limits"`
	Reserve     Resources    `json:"reserve"`
	Health      *HealthCheck `json:"health,omitempty"`
	Restart     Restart      `json:"restart"`
	Constraints []string     `json:"constraints,omitempty"` // "node.labels.disk == ssd", "node.hostname != n1"

	Ports    []Port       `json:"ports,omitempty"`
	Volumes  []Volume     `json:"volumes,omitempty"`
	Shares   []SharedUse  `json:"shares,omitempty"`   // folders of shared file systems
	Floating []netip.Addr `json:"floating,omitempty"` // x-skein: addresses that move with the service

	// Update and Rollback say how instances are replaced; nil: DefaultUpdate.
	Update   *UpdatePolicy `json:"update,omitempty"`
	Rollback *UpdatePolicy `json:"rollback,omitempty"`

	// Hash changes when an instance has to be replaced to follow the spec.
	Hash     string `json:"hash"`
	Revision int64  `json:"-"` // ledger's mod revision, filled in by the store
}

// File is a small file put read-only into the container.
type File struct {
	Target  string `json:"target"`
	Mode    uint32 `json:"mode"` // permission bits, 0444 by default
	Content []byte `json:"content"`
}

// Resources: zero means no limit, or no reservation.
type Resources struct {
	CPUs   float64 `json:"cpus,omitempty"`         // cores
	Memory int64   `json:"memory_bytes,omitempty"` // bytes
	Pids   int64   `json:"pids,omitempty"`
}

// Kinds of HealthCheck that the node makes itself, over the container's network. They need nothing in the
// image and cost far less than a command that is started in the container.
const (
	HealthHTTP = "HTTP" // Test is HTTP, port, path: healthy if the status is below 400
	HealthTCP  = "TCP"  // Test is TCP, port: healthy if a connection is taken
)

// HealthCheck as in Compose: Test[0] is CMD (exec in the container), CMD-SHELL, HealthHTTP or HealthTCP.
// Durations have Compose's defaults filled in.
type HealthCheck struct {
	Test          []string      `json:"test"`
	Interval      time.Duration `json:"interval"`
	Timeout       time.Duration `json:"timeout"`
	StartPeriod   time.Duration `json:"start_period"`
	StartInterval time.Duration `json:"start_interval"`
	Retries       int           `json:"retries"`
}

// Restart policy of an instance on its node. After MaxAttempts within Window the instance is failed and
// the planner may try another node.
type Restart struct {
	Condition   string        `json:"condition"` // any (default), on-failure, none
	Delay       time.Duration `json:"delay"`     // first back-off step, doubled up to a minute
	MaxAttempts int           `json:"max_attempts"`
	Window      time.Duration `json:"window"`
}

// Port is published on the floating addresses of the service, or, if it has none, on the node that runs
// the instance.
type Port struct {
	Target    uint16 `json:"target"`
	Published uint16 `json:"published"`
	Protocol  string `json:"protocol"` // tcp or udp
}

// Key is the ledger's key of the service.
func (s *Service) Key() string { return KeyServices + s.Stack + "/" + s.Name }

// FullName is "stack/service", how people and events name it.
func (s *Service) FullName() string { return s.Stack + "/" + s.Name }
