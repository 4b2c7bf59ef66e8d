package daemon

import (
	"path/filepath"
	"time"

	"github.com/skein-os/skein/qemu"
	"github.com/skein-os/skein/qemu/accel"
	"github.com/skein-os/skein/qemu/bmc"
	"github.com/skein-os/skein/qemu/san"
)

// Config of a lab to be started. It holds secrets (the machines' seeds), so it goes to the daemon by
// its standard input.
type Config struct {
	Dir      string        `json:"dir"`
	Kernel   string        `json:"kernel"`
	Initrd   string        `json:"initrd"`
	Append   string        `json:"append,omitempty"` // to the kernel's command line
	MemoryMB int           `json:"memory_mb"`
	Nodes    []qemu.Node   `json:"nodes"`
	From     string        `json:"from,omitempty"` // folder of a saved lab, instead of kernel, memory and nodes
	Seed     uint64        `json:"seed,omitempty"` // of the chance in the networks' faults; 0: another one each time
	Netboot  *qemu.Netboot `json:"netboot,omitempty"`
	SAN      *qemu.SAN     `json:"san,omitempty"`
	Proxy    string        `json:"proxy,omitempty"` // address on loopback to listen on; a free port if that is taken
}

// DefaultProxy is where the proxy listens if that is free.
const DefaultProxy = "127.0.0.1:7780"

// State of a lab.
type State struct {
	// Proxy as curl and browsers want it; the same port speaks SOCKS5.
	Proxy    string        `json:"proxy"`
	SOCKS    string        `json:"socks"`
	Machines []qemu.Status `json:"machines"`
	SAN      *qemu.Status  `json:"san,omitempty"` // the storage array's machine
	Accel    accel.Choice  `json:"accel"`
	Dir      string        `json:"dir"`
	PID      int           `json:"pid"`
	Started  time.Time     `json:"started"`
}

// Call is one order to a lab. Op says which; the other fields are its arguments.
type Call struct {
	Op         Op            `json:"op"`
	Node       string        `json:"node,omitempty"`
	Interface  string        `json:"interface,omitempty"`
	Up         bool          `json:"up,omitempty"`
	Silent     bool          `json:"silent,omitempty"`
	Clock      qemu.Clock    `json:"clock,omitempty"`
	Groups     [][]string    `json:"groups,omitempty"`
	Directions []string      `json:"directions,omitempty"` // "out" of the machine, "in" to it
	Loss       float64       `json:"loss,omitempty"`       // 0 to 1
	Delay      time.Duration `json:"delay,omitempty"`
	Jitter     time.Duration `json:"jitter,omitempty"`
	Duplicate  float64       `json:"duplicate,omitempty"` // 0 to 1
	Corrupt    float64       `json:"corrupt,omitempty"`   // 0 to 1
	Folder     string        `json:"folder,omitempty"`    // to save to
	New        *qemu.Node    `json:"new,omitempty"`       // machine to add
	Mode       bmc.Mode      `json:"mode,omitempty"`      // of its power controller
	Order      *san.Order    `json:"order,omitempty"`     // to the storage array
	Switch     string        `json:"switch,omitempty"`    // to plug a cable into
	MTU        int           `json:"mtu,omitempty"`       // larger packets vanish; 0: none
}

// Op names an order.
type Op string

const (
	OpPowerOn   Op = "power-on"
	OpPowerOff  Op = "power-off"
	OpReset     Op = "reset"
	OpFreeze    Op = "freeze"
	OpThaw      Op = "thaw"
	OpLink      Op = "link"
	OpPartition Op = "partition"
	OpHeal      Op = "heal"
	OpLoss      Op = "loss"
	OpDelay     Op = "delay"
	OpImpair    Op = "impair" // all of loss, delay, jitter, duplicates and wrong bits, of a machine or of all
	OpSave      Op = "save"
	OpAdd       Op = "add"
	OpBMC       Op = "bmc"
	OpSAN       Op = "san"
	OpCable     Op = "cable"
	OpMTU       Op = "mtu"
)

// message is one line of the daemon's report while it starts, and of a wait.
type message struct {
	Progress string `json:"progress,omitempty"`
	Error    string `json:"error,omitempty"`
	Done     bool   `json:"done,omitempty"`
}

func socketPath(dir string) string { return filepath.Join(dir, "lab.sock") }
func lockPath(dir string) string   { return filepath.Join(dir, "lab.lock") }
