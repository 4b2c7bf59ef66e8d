package admission

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/skein-os/skein/agent/cluster"
)

// Version of the protocol. A member answers another version with an error that names both.
const Version = 1

// Path is where a member's API takes requests to join.
const Path = "/v1/join"

// maxMessage bounds a request and an answer, bytes.
const maxMessage = 64 << 10

// Roles that can be asked for.
const (
	RoleNode     = "node"
	RoleOperator = "operator"
)

// envelope carries a request or an answer as the exact bytes that the proof is over.
type envelope struct {
	Body  []byte `json:"body"`
	Proof []byte `json:"proof"`
}

// Request is what a machine says of itself. An operator leaves all but the first fields and the name
// empty.
type Request struct {
	Version int    `json:"version"`
	Cluster string `json:"cluster"` // the cluster's name in the machine's seed
	Role    string `json:"role"`
	Name    string `json:"name"`
	CSR     []byte `json:"csr"` // DER

	MachineID string            `json:"machine_id,omitempty"`
	BootID    string            `json:"boot_id,omitempty"`
	Links     []cluster.Link    `json:"links,omitempty"`
	CPUs      float64           `json:"cpus,omitempty"`
	Memory    int64             `json:"memory_bytes,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Software  string            `json:"software,omitempty"` // Node.Version
	Witness   bool              `json:"witness,omitempty"`  // it is to vote and to run nothing
	// Pledge is what this boot has promised to a member that is alone with its ledger.
	Pledge *cluster.Pledge `json:"pledge,omitempty"`
	// Serial and Model are of the machine's firmware, for the operator who is to approve it.
	Serial string `json:"serial,omitempty"`
	Model  string `json:"model,omitempty"`

	key string // SHA-256 of the public key, if it is what the machine is known by
}

// answer is what an admitted machine is given.
type answer struct {
	Version      int          `json:"version"`
	CA           []byte       `json:"ca"`   // PEM
	Cert         []byte       `json:"cert"` // PEM
	Meta         cluster.Meta `json:"meta"`
	Node         cluster.Node `json:"node,omitzero"`
	HeartbeatKey []byte       `json:"heartbeat_key,omitempty"`
	Endpoints    []string     `json:"endpoints,omitempty"` // etcd's
	AdmittedBy   string       `json:"admitted_by"`
	// Stranded: not admitted, as the member has lost the others; what to promise it. Nothing else is filled
	// in but Version and AdmittedBy.
	Stranded *cluster.Pledge `json:"stranded,omitempty"`
}

// refusal is the answer to who is not admitted. It is not proven: whoever cannot prove the token cannot
// check a proof either.
type refusal struct {
	Error string `json:"error"`
}

var (
	validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	validID   = regexp.MustCompile(`^[0-9A-Za-z-]{8,64}$`)
)

// parseEnvelope reads what came over the network from anybody.
func parseEnvelope(data []byte) (*envelope, error) {
	if len(data) > maxMessage {
		return nil, fmt.Errorf("message is longer than %d bytes", maxMessage)
	}
	var e envelope
	if err := decodeStrict(data, &e); err != nil {
		return nil, err
	}
	if len(e.Body) == 0 || len(e.Proof) < 32 || len(e.Proof) > 80 {
		return nil, errors.New("message has no body or no proof")
	}
	return &e, nil
}

// parseRequest reads a request whose proof was right, and checks that every field can be what it says.
func parseRequest(body []byte) (*Request, error) {
	// Before the rest: another version may have other fields.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, fmt.Errorf("request is unreadable: %w", err)
	}
	if v.Version != Version {
		return nil, fmt.Errorf("request is of protocol version %d, this member speaks %d: boot the machine with the image of the cluster", v.Version, Version)
	}
	var r Request
	if err := decodeStrict(body, &r); err != nil {
		return nil, err
	}
	return &r, r.check()
}

func (r *Request) check() error {
	switch {
	case r.Role != RoleNode && r.Role != RoleOperator:
		return fmt.Errorf("request for the role %q: must be %s or %s", r.Role, RoleNode, RoleOperator)
	case !validName.MatchString(r.Name):
		return fmt.Errorf("name %q must be lower-case letters, digits and dashes, at most 63", r.Name)
	case len(r.CSR) == 0:
		return errors.New("request has no certificate request")
	}
	if r.Role == RoleOperator {
		return nil
	}
	switch {
	case !validID.MatchString(r.MachineID):
		return fmt.Errorf("machine id %q must be 8 to 64 letters, digits and dashes", r.MachineID)
	case !validID.MatchString(r.BootID):
		return fmt.Errorf("boot id %q must be 8 to 64 letters, digits and dashes", r.BootID)
	case len(r.Links) > 16:
		return fmt.Errorf("%d links: more than 16", len(r.Links))
	case len(r.Labels) > 64:
		return fmt.Errorf("%d labels: more than 64", len(r.Labels))
	case !(r.CPUs >= 0 && r.CPUs <= 1<<16) || r.Memory < 0:
		return fmt.Errorf("%g CPUs and %d bytes of memory cannot be", r.CPUs, r.Memory)
	case !printable(r.Serial, 64) || !printable(r.Model, 128):
		return errors.New("serial number and model must be printable and at most 64 and 128 bytes long")
	case len(r.Software) > 128:
		return errors.New("software version is longer than 128 bytes")
	}
	if p := r.Pledge; p != nil && (!validName.MatchString(p.Node) || !validID.MatchString(p.BootID) || len(p.ClusterID) == 0 || len(p.ClusterID) > 64) {
		return errors.New("a promise must name cluster, node and boot")
	}
	for k, v := range r.Labels {
		if k == "" || len(k) > 128 || len(v) > 256 {
			return fmt.Errorf("label %.32q must have a name of at most 128 and a value of at most 256 bytes", k)
		}
	}
	for _, l := range r.Links {
		if len(l.Name) > 32 || len(l.MAC) > 64 {
			return fmt.Errorf("link %.32q has too long a name or MAC address", l.Name)
		}
		if l.Addr.IsValid() && (l.Addr.Addr().IsUnspecified() || l.Addr.Addr().IsMulticast() || l.Addr.Addr().Zone() != "") {
			return fmt.Errorf("link %s cannot have the address %s", l.Name, l.Addr)
		}
	}
	return nil
}

func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("message is unreadable: %w", err)
	}
	if dec.More() {
		return errors.New("message has something after its end")
	}
	return nil
}
