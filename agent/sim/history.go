package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/cluster"
)

// History is a random history as it was played: what was drawn, and what was done when. Played again it is the same, and with
// fewer steps it is a simpler one that may fail for the same reason: see Shrink.
type History struct {
	Seed    uint64  `json:"seed"` // of all that happens by chance
	Nodes   int     `json:"nodes"`
	Witness bool    `json:"witness,omitempty"`
	Loss    float64 `json:"loss,omitempty"` // of datagrams, 0 to 1
	Copies  float64 `json:"copies,omitempty"`
	Late    bool    `json:"late,omitempty"` // some datagrams come late
	// Services besides web, api and db: log, on each node, and sql, with so many reserved volumes.
	Log     bool          `json:"log,omitempty"`
	Volumes int           `json:"volumes,omitempty"`
	Steps   []Step        `json:"steps"`
	End     time.Duration `json:"end_ns"` // when everything is mended
}

// Step is one thing that is done to the cluster.
type Step struct {
	At   time.Duration `json:"at_ns"` // virtual time since the beginning
	Do   string        `json:"do"`
	Args []string      `json:"args,omitempty"`
}

func (st Step) String() string {
	return fmt.Sprintf("%9.3fs  %s", st.At.Seconds(), strings.TrimSpace(st.Do+" "+strings.Join(st.Args, " ")))
}

// String is the history for people. JSON is for playing it again.
func (h History) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d nodes, seed %d, %.0f %% loss, %.0f %% copies, late %v, witness %v, log %v, volumes %d\n", h.Nodes, h.Seed, 100*h.Loss, 100*h.Copies, h.Late, h.Witness, h.Log, h.Volumes)
	mended := false
	for _, st := range h.Steps {
		if !mended && st.At > h.End {
			fmt.Fprintf(&b, "%9.3fs  all is mended\n", h.End.Seconds())
			mended = true
		}
		fmt.Fprintln(&b, st)
	}
	if !mended {
		fmt.Fprintf(&b, "%9.3fs  all is mended\n", h.End.Seconds())
	}
	data, err := json.Marshal(h)
	if err != nil {
		panic("sim: a history that is no JSON: " + err.Error()) // it has numbers and words only
	}
	return b.String() + string(data)
}

// draw is what a seed says of a history before anything is done.
func draw(seed uint64) History {
	h := History{Seed: seed, Nodes: sizes[seed%uint64(len(sizes))]}
	h.Witness = h.Nodes == 3 && seed/uint64(len(sizes))%4 == 1
	dice := rand.New(rand.NewPCG(seed, 3))
	if dice.IntN(3) == 0 {
		h.Loss, h.Copies, h.Late = 0.2*dice.Float64(), 0.05, true
	}
	h.Log = dice.IntN(2) == 0
	if dice.IntN(2) == 0 {
		if h.Volumes = 1; dice.IntN(3) == 0 {
			h.Volumes = 2
		}
	}
	return h
}

// begin makes the cluster and deploys what it runs.
func (h History) begin(keepLog bool, change func(*Config)) (*Sim, []cluster.Service) {
	cfg := Config{Seed: h.Seed, Skew: 0.004, Boot: 800 * time.Millisecond, Nodes: h.Nodes, Witness: h.Witness, Tick: 30 * time.Millisecond, Quiet: !keepLog}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	s.net.loss, s.net.copies = h.Loss, h.Copies
	if h.Late {
		s.net.late = 300 * time.Millisecond
	}
	services := []cluster.Service{Service("web", 1, "10.77.9.10"), Service("api", 2, "10.77.9.11"), Service("db", 1, "")}
	services[2].Safety = cluster.SafetyPower
	if h.Log {
		log := Service("log", 0, "")
		log.Mode = cluster.ModeGlobal
		services = append(services, log)
	}
	if h.Volumes > 0 {
		sql := Service("sql", 1, "10.77.9.12")
		sql.Safety, sql.Volumes = cluster.SafetyStorage, []cluster.Volume{{Name: "data", Disk: "lun1"}, {Name: "log", Disk: "lun2"}}[:h.Volumes]
		services = append(services, sql)
	}
	s.services = services
	for _, svc := range services {
		s.Deploy(svc)
	}
	return s, services
}

// do does a step of a random history, and notes it. The error is that of draining a node that cannot be drained, or a step
// that there is not.
func (s *Sim) do(what string, args ...string) error {
	s.steps = append(s.steps, Step{s.now, what, args})
	service := func() (svc cluster.Service, ok bool) {
		i := slices.IndexFunc(s.services, func(o cluster.Service) bool { return o.Name == args[0] })
		if i >= 0 {
			svc = s.services[i]
		}
		return svc, i >= 0
	}
	wants, ok := map[string]int{"heal": 0, "heal disks": 0, "freeze": 2, "link down": 3, "link up": 3, "deploy": 2, "disk": 2}[what]
	if !ok {
		wants = 1
	}
	if len(args) != wants {
		return fmt.Errorf("step %q takes %d words, not %q", what, wants, args)
	}
	switch what {
	case "power off":
		s.PowerOff(args[0])
	case "power on":
		s.PowerOn(args[0])
	case "freeze":
		s.Freeze(args[0], args[1])
	case "thaw":
		s.Thaw(args[0])
	case "agent stop":
		s.StopAgent(args[0])
	case "agent start":
		s.StartAgent(args[0])
	case "partition":
		s.Partition(args[0])
	case "heal":
		s.Heal()
	case "link down", "link up":
		s.Link(args[0], args[1], args[2], what == "link up")
	case "drain":
		return s.Drain(args[0])
	case "undrain":
		return s.Undrain(args[0])
	case "fail":
		s.Fail(args[0])
	case "deploy", "remove":
		svc, ok := service()
		if !ok {
			return fmt.Errorf("step %q of an unknown service %q", what, args[0])
		}
		if what == "remove" {
			s.Remove(svc)
			return nil
		}
		svc.Hash = args[1]
		s.Deploy(svc)
	case "path down", "path up":
		s.Path(args[0], "", what == "path up")
	case "disk":
		return s.Target(args[0], args[1])
	case "heal disks":
		s.healSAN()
	default:
		return fmt.Errorf("there is no step %q", what)
	}
	return nil
}

// play plays a history again.
func (h History) play(keepLog bool, change func(*Config)) Result {
	s, services := h.begin(keepLog, change)
	for _, st := range h.Steps {
		// Without the steps before it, it may not be possible any more.
		if st.At > h.End { // it ends what was begun before, while all is being mended
			s.after(st.At-s.now, func() { _ = s.do(st.Do, st.Args...) })
			continue
		}
		s.Run(max(0, st.At-s.now))
		_ = s.do(st.Do, st.Args...)
	}
	s.Run(max(0, h.End-s.now))
	r := s.finish(services)
	r.History = h
	return r
}

// mostTries bounds the histories that Shrink plays.
const mostTries = 2000

// Shrink finds a simpler history that fails still: as many steps as can be are left out (delta debugging: halves first, then
// less and less, until no single one can be missed), then what else can be. fails plays one. The second value is how many
// were played.
func Shrink(h History, fails func(History) bool) (History, int) {
	tries := 0
	try := func(c History) bool {
		if tries++; tries > mostTries || !fails(c) {
			return false
		}
		h = c
		return true
	}
	shorter := func() {
		for size := (len(h.Steps) + 1) / 2; size > 0; {
			cut := false
			for from := 0; from < len(h.Steps); {
				c := h
				c.Steps = slices.Delete(slices.Clone(h.Steps), from, min(from+size, len(h.Steps)))
				if try(c) {
					cut = true
				} else {
					from += size
				}
			}
			if size > 1 || !cut {
				size /= 2
			}
		}
	}
	shorter()
	for _, simpler := range []func(*History){
		func(c *History) { c.Loss, c.Copies, c.Late = 0, 0, false },
		func(c *History) { c.Copies, c.Late = 0, false },
		func(c *History) { c.Witness = false },
		func(c *History) { c.Log = false },
		func(c *History) { c.Volumes = 0 },
		func(c *History) { c.Volumes = min(c.Volumes, 1) },
		func(c *History) {
			if n := len(c.Steps); n > 0 && c.Steps[n-1].At < c.End {
				c.End = min(c.End, c.Steps[n-1].At+time.Second)
			}
		},
	} {
		c := h
		if simpler(&c); c.String() != h.String() {
			try(c)
		}
	}
	shorter()
	return h, tries
}
