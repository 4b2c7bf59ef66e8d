package scenario_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-os/skein/agent/scenario"
)

func files(t testing.TB) map[string]string {
	t.Helper()
	list, err := filepath.Glob("../../tests/scenarios/*.txt")
	if err != nil || len(list) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	out := map[string]string{}
	for _, f := range list {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(text)
	}
	return out
}

// forget the lines: a printed script has others.
func forget(steps []scenario.Step) []scenario.Step {
	var out []scenario.Step
	for _, st := range steps {
		st.Line = 0
		if r, is := st.Do.(scenario.Repeat); is {
			r.Steps = forget(r.Steps)
			st.Do = r
		}
		out = append(out, st)
	}
	return out
}

// sameWhenPrinted fails unless what the printer prints parses to the same script.
func sameWhenPrinted(t interface {
	Helper()
	Fatalf(string, ...any)
}, s *scenario.Script) {
	t.Helper()
	again, err := scenario.Parse(s.String())
	if err != nil {
		t.Fatalf("printed as\n%s: %v", s, err)
	}
	a, b := *s, *again
	a.Steps, b.Steps = forget(a.Steps), forget(b.Steps)
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("printed as\n%sgot %+v, want %+v", s, b, a)
	}
}

func TestFilesParse(t *testing.T) {
	for name, text := range files(t) {
		s, err := scenario.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sameWhenPrinted(t, s)
	}
}

// every is one line of each kind.
const every = `# fault 22
# in part:   no   volumes
nodes 5 seed 7 voters 3 clusterdisk
deploy web address 10.77.9.10
deploy api replicas 0 safety power global memory 3 spec 2
remove api
fail web
hang web
settle
wait 1m30s
wait 2h
repeat 3
power off web
power on that
end
reboot n1
reboot n1 fast
panic coordinator
freeze n1 standing
freeze n1 running
thaw n1
clock n1 +24h
clock n1 -1ms
agent stop n1
agent start n1
link n1 eth0 down
link n1 eth1 up in
link n1 all down out
flap n1 eth0 1s for 5m
partition n1 web | n2
cut n1 n2
cut n1 -> n2
heal
loss 30
loss 30 jitter 50ms
copies 100
corrupt 0
drain n1
undrain n1
confirm n1
bmc n1 lie
coordinator n1
expect web on n1|n2|that
expect web nowhere
expect node web drained
expect outage web < 1.5s
expect outage web > 3s
expect takeovers 0
expect reboot n1
expect no reboot that
expect takeovers < 3
expect event n3 is lost
expect no event is lost
expect pending web needs 4 GiB
`

func TestEveryStep(t *testing.T) {
	text := strings.Replace(every, "wait 2h\n", "", 1)
	s, err := scenario.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.Fault != 22 || s.InPart != "no volumes" || s.Nodes != 5 || s.Voters != 3 || s.Seed != 7 || !s.ClusterDisk {
		t.Errorf("got %+v", s)
	}
	sameWhenPrinted(t, s)
	if got, want := s.String(), strings.Replace(text, "   no   volumes", " no volumes", 1); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                                        "first step must be: nodes N",
		"wait 1s":                                 "line 1, wait 1s: the first step must be",
		"# fault x\nnodes 3":                      "line 1, # fault x: \"x\" is no fault",
		"nodes 0":                                 "1 to 50",
		"nodes 51":                                "1 to 50",
		"nodes":                                   "words are missing: want a number of nodes",
		"nodes 3 voters 4":                        `voters "4": want 1 to 3`,
		"nodes 3 wheels 4":                        `"wheels": want seed, voters or clusterdisk`,
		"nodes 3 seed -1":                         "no seed",
		"nodes 3\nnodes 3":                        "line 2, nodes 3: the cluster was given before",
		"nodes 3\nwobble n1":                      `line 2, wobble n1: unknown step "wobble": want agent,`,
		"nodes 3\ndeploy a volume replicas 2":     "a volume has one writer",
		"nodes 3\ndeploy a\ndisk a gone":          "a has no volume",
		"nodes 3\ndeploy a volume\ndisk a burns":  `"burns" is no fault of a disk`,
		"nodes 3\ndeploy a volume\npath n1 a":     "words are missing: want up, down",
		"nodes 3\nheal now":                       `"now" is one word too many`,
		"nodes 3\npower off n4":                   `"n4" is no node: want n1 to n3, coordinator, that, or a service`,
		"nodes 3\npower off n01":                  "no node",
		"nodes 3\npower off web":                  "no node",
		"nodes 3\npower up n1":                    `"up" is no state of power: want on, off`,
		"nodes 3\npower off":                      "words are missing: want a node",
		"nodes 3\nfreeze n1":                      "words are missing: want standing, running",
		"nodes 3\nlink n1 eth2 down":              `"eth2" is no link: want eth0, eth1, all`,
		"nodes 3\nlink n1 eth0 down up":           `"up" is no direction: want in, out`,
		"nodes 3\nwait 0s":                        "above 0",
		"nodes 3\nwait 11m":                       "up to 10m",
		"nodes 3\nwait soon":                      "as 1.5s",
		"nodes 3\ndeploy a replicas x":            `replicas "x": want 0 to 100`,
		"nodes 3\ndeploy a replicas 101":          "0 to 100",
		"nodes 3\ndeploy n1":                      "no name of a service",
		"nodes 3\ndeploy that":                    "no name of a service",
		"nodes 3\ndeploy Web":                     "no name of a service",
		"nodes 3\ndeploy a address ::1":           "no address",
		"nodes 3\ndeploy a color red":             `"color": want replicas,`,
		"nodes 3\nremove a":                       `"a" is no service`,
		"nodes 3\nexpect a on n1":                 `"a": want node, outage,`,
		"nodes 3\ndeploy a\nexpect a on a":        `"a" is no node: want n1 to n3, coordinator, that`,
		"nodes 3\ndeploy a\nexpect a there":       `"there" is no place: want on, nowhere`,
		"nodes 3\ndeploy a\nexpect outage a < 1s": "a has no address",
		"nodes 3\nexpect node n1 dead":            "no state of a node: want joining,",
		"nodes 3\nexpect event":                   "words are missing",
		"nodes 3\nexpect no rain":                 "want event",
		"nodes 3\nexpect takeovers many":          "want 0 to 1000",
		"nodes 3\npartition n1 |":                 "an empty group",
		"nodes 3\ncut n1 n1":                      "want two nodes",
		"nodes 3\nloss 101":                       "0 to 100",
		"nodes 3\nclock n1 24h":                   "as +24h or -24h",
		"nodes 3\nflap n1 eth0 1s for 500ms":      "at least one of it",
		"nodes 3\nrepeat 2\nheal":                 "line 2: repeat without its end",
		"nodes 3\nrepeat 2\nrepeat 2":             "line 3, repeat 2: a repeat within that of line 2",
		"nodes 3\nend":                            "line 2, end: end of nothing",
		"nodes 3\nrepeat 2\nend":                  "nothing is repeated",
		"nodes 3\nrepeat 100\nwait 2m\nend":       "want 2h0m0s at most in all",
		"nodes 3\n" + strings.Repeat("heal\n", scenario.MostSteps): "more than 1000 steps",
		strings.Repeat("#", 2<<20):                                 "bytes: want",
	} {
		_, err := scenario.Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
}

// TestShuffledWords: lines made of the language's own words never harm, and what parses prints the same.
func TestShuffledWords(t *testing.T) {
	words := strings.Fields(every)
	rapid.Check(t, func(t *rapid.T) {
		text := "nodes 3\ndeploy web address 10.77.9.10\n"
		for range rapid.IntRange(1, 8).Draw(t, "lines") {
			text += strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 1, 5).Draw(t, "words"), " ") + "\n"
		}
		if s, err := scenario.Parse(text); err == nil {
			sameWhenPrinted(t, s)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, text := range files(f) {
		f.Add(text)
	}
	f.Add(every)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := scenario.Parse(text)
		if err != nil {
			return
		}
		if s.Nodes < 1 || s.Nodes > scenario.MostNodes || s.Voters > s.Nodes || len(s.Steps) > scenario.MostSteps {
			t.Errorf("out of bounds: %+v", s)
		}
		sameWhenPrinted(t, s)
	})
}
