package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/skein-os/skein/agent/api"
	"github.com/skein-os/skein/agent/cluster"
	"github.com/skein-os/skein/storage/speed"
)

// idleCompose has a volume mounted and leaves it alone: what is measured is the disk.
const idleCompose = `services:
  idle:
    image: demo/reports:1
    user: "0:0"
    entrypoint: ["/usr/bin/busybox", "sleep", "100000"]
    stop_grace_period: 1s
    volumes: ["data:/data"]
volumes:
  data: {driver: skein, name: bench}
`

const (
	sanDiskSize = 2 << 30 // bytes, of the lab's LUN for volumes
	speedFor    = "20s"
)

type seenDisk struct {
	WWN  string `json:"wwn"`
	Size int64  `json:"size_bytes"`
}

// volumes measures what a volume costs: beside the paths that it goes by, and in a takeover.
func (b *bench) volumes() error {
	if _, err := b.call("lab", "down"); err != nil && b.only == "" {
		return err
	}
	defer b.call("lab", "down")
	if _, err := b.call("lab", "up", "--image", b.image, "--san=2"); err != nil {
		return err
	}
	if _, err := b.call("image", "load", filepath.Join(b.demo, "reports.tar")); err != nil {
		return err
	}
	var disks []seenDisk
	if err := b.ask(&disks, "disk", "ls"); err != nil {
		return err
	}
	at := slices.IndexFunc(disks, func(d seenDisk) bool { return d.Size == sanDiskSize })
	if at < 0 {
		return fmt.Errorf("the lab's array has no LUN of %d bytes: %v", sanDiskSize, disks)
	}
	var test api.DiskTest
	if err := b.ask(&test, "disk", "enrol", disks[at].WWN, "--alias", "bench", "--yes"); err != nil {
		return err
	}
	fmt.Printf("%-44s %6.1f ms  %.1f times reading the keys\n", "a key is taken away (preempt and abort)",
		ms(test.Preempt), float64(test.Preempt)/float64(test.ReadKeys))
	if _, err := b.call("volume", "create", "bench", "--disk", "bench"); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "idle.yaml")
	if err := os.WriteFile(file, []byte(idleCompose), 0o600); err != nil {
		return err
	}
	if _, err := b.call("deploy", "-f", file, "bench"); err != nil {
		return err
	}
	if _, err := b.healthy(); err != nil {
		return err
	}
	if err := b.diskSpeed(); err != nil {
		return err
	}
	var suspicion, cut []float64
	for range b.cuts {
		s, c, err := b.remount()
		if err != nil {
			return err
		}
		suspicion, cut = append(suspicion, s), append(cut, c)
	}
	figures("a volume, from the suspicion to mounted", suspicion)
	figures("the same, from the power cut", cut)
	return nil
}

func figures(what string, list []float64) {
	slices.Sort(list)
	fmt.Printf("%-44s p50 %.0f ms, max %.0f ms of %d\n", what, list[len(list)/2], list[len(list)-1], len(list))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ask reads a command's answer as JSON.
func (b *bench) ask(into any, args ...string) error {
	out, err := b.call(append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// diskSpeed sets the map beside the paths that it leads to, in the same seconds.
func (b *bench) diskSpeed() error {
	var list []speed.Result
	if err := b.ask(&list, "disk", "speed", "bench", "--for", speedFor); err != nil {
		return err
	}
	if len(list) < 2 || strings.HasPrefix(list[0].Device, "/dev/sd") {
		return fmt.Errorf("got the speed of %v, want that of a map and of its paths", list)
	}
	var latency, throughput float64
	for _, p := range list[1:] {
		latency += ms(p.Median) / float64(len(list)-1)
		throughput += p.Throughput / float64(len(list)-1)
	}
	m := list[0]
	fmt.Printf("%-44s %6.2f ms  %.2f times a path's (aim: 1.05)\n", "reading 4 KiB of a volume", ms(m.Median), ms(m.Median)/latency)
	fmt.Printf("%-44s %6.1f MB/s  %.2f times a path's (aim: 0.95)\n", "reading 1 MiB of a volume, four at once", m.Throughput/1e6, m.Throughput/throughput)
	return nil
}

// mounted is what an agent says when it has mounted the volume, with the host's time of day before it.
var mounted = regexp.MustCompile(`(?m)^(\d\d:\d\d:\d\d\.\d{3}) +time=\S+ level=INFO msg="volume mounted" part=disks volume=bench`)

// stamped is a line of an agent on a console: the host's time of day, and the machine's.
var stamped = regexp.MustCompile(`(?m)^(\d\d:\d\d:\d\d\.\d{3}) +time=\S+T(\d\d:\d\d:\d\d\.\d{3})Z level=`)

const timeOfDay = "15:04:05.000"

// behind is how far a machine's clock is behind the host's: its own comes from a clock that counts seconds. It is the least
// that any line took to the console, and that much too large.
func behind(console string) (least time.Duration, err error) {
	least = time.Hour
	for _, m := range stamped.FindAllStringSubmatch(console, -1) {
		host, err1 := time.Parse(timeOfDay, m[1])
		own, err2 := time.Parse(timeOfDay, m[2])
		if err := errors.Join(err1, err2); err != nil {
			return 0, err
		}
		least = min(least, host.Sub(own))
	}
	if least == time.Hour {
		return 0, errors.New("a console without a line of its agent")
	}
	return least, nil
}

// remount cuts the power of the volume's owner, and tells for how many ms it had been suspected, and had been off, when the
// volume was mounted on another node. Times are the host's.
func (b *bench) remount() (suspicion, cut float64, err error) {
	st, err := b.healthy()
	if err != nil {
		return 0, 0, err
	}
	victim := idleOwner(st)
	if victim == "" {
		return 0, 0, errors.New("the volume's service does not run")
	}
	off := time.Now().UTC()
	if _, err := b.call("lab", "power", "off", victim); err != nil {
		return 0, 0, err
	}
	var heir string
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) { // between two questions
		if st, err := b.status(); err == nil {
			if heir = idleOwner(st); heir != "" && heir != victim {
				break
			}
		}
		if time.Now().After(deadline) {
			return 0, 0, fmt.Errorf("nobody took %s's volume over", victim)
		}
	}
	lost, err := b.lost(victim)
	if err != nil {
		return 0, 0, err
	}
	console, err := b.call("lab", "console", heir)
	if err != nil {
		return 0, 0, err
	}
	all := mounted.FindAllStringSubmatch(console, -1)
	if len(all) == 0 {
		return 0, 0, fmt.Errorf("%s does not say that it has mounted the volume", heir)
	}
	at, err := time.Parse(timeOfDay, all[len(all)-1][1])
	if err != nil {
		return 0, 0, err
	}
	at = time.Date(off.Year(), off.Month(), off.Day(), at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), time.UTC)
	_, err = b.call("lab", "power", "on", victim)
	return ms(at.Sub(lost)), ms(at.Sub(off)), err
}

// lost is when a node was given up, as the host's clock has it.
func (b *bench) lost(victim string) (time.Time, error) {
	told, err := b.call("events", "-o", "json")
	if err != nil {
		return time.Time{}, err
	}
	var last cluster.Event
	for line := range strings.Lines(told) {
		var e cluster.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return time.Time{}, err
		}
		if e.Subject == victim && strings.HasSuffix(e.Text, "is lost") {
			last = e
		}
	}
	if last.Node == "" {
		return time.Time{}, fmt.Errorf("the events do not tell of the loss of %s", victim)
	}
	console, err := b.call("lab", "console", last.Node)
	if err != nil {
		return time.Time{}, err
	}
	slow, err := behind(console)
	return last.Time.UTC().Add(slow), err
}

func idleOwner(st api.Status) string {
	for _, s := range st.Services {
		if s.Name == "idle" && len(s.Instances) == 1 && s.Instances[0].State == cluster.InstanceRunning {
			return s.Instances[0].Node
		}
	}
	return ""
}
