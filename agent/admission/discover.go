package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// Air is where beacons go: every link of the node, as broadcasts to cluster.PortHeartbeat. A link that is
// down is not an error.
type Air interface {
	Broadcast(datagram []byte)
}

// Discover sends beacons and listens until the formation has decided to found or to join. Heard are the
// datagrams that begin with BeaconMagic; remember stores what the boot must not forget, so that it is there
// after a restart of the agent; report is called when the reason for waiting changes.
func Discover(ctx context.Context, token Token, f *Formation, air Air, heard <-chan []byte, remember func(Memory) error, report func(Decision), log *slog.Logger) (Decision, error) {
	tick := time.NewTicker(BeaconInterval)
	defer tick.Stop()
	send := func() error {
		b := f.Beacon(sinceBoot())
		data, err := b.Encode(token)
		if err == nil {
			air.Broadcast(data)
		}
		return err
	}
	if err := send(); err != nil {
		return Decision{}, fmt.Errorf("look for the cluster: %w", err)
	}
	var last Decision
	remembered := f.Memory()
	strangers := 0
	for {
		d := f.Step(sinceBoot())
		if m := f.Memory(); m != remembered {
			if err := remember(m); err != nil {
				return last, fmt.Errorf("look for the cluster: %w", err)
			}
			remembered = m
		}
		if d.Action != last.Action || d.Reason != last.Reason {
			last = d
			report(d)
		}
		if d.Action != Wait {
			return d, nil
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("look for the cluster: %w", context.Cause(ctx))
		case <-tick.C:
			if err := send(); err != nil {
				return last, fmt.Errorf("look for the cluster: %w", err)
			}
		case data := <-heard:
			b, err := DecodeBeacon(token, data)
			if err != nil {
				if strangers++; strangers == 1 || strangers%1000 == 0 {
					what := "beacon of a stranger is ignored"
					if errors.Is(err, ErrWrongToken) {
						what = "a cluster is here that this machine cannot join: its join token is another one; give this machine that cluster's token"
					}
					log.Warn(what, "err", err, "so_far", strangers)
				}
				continue
			}
			f.Hear(sinceBoot(), *b)
		}
	}
}

// Linger goes on calling out and listening for d: this machine is to found the cluster, and cannot yet. It returns who
// is heard.
func Linger(ctx context.Context, token Token, f *Formation, air Air, heard <-chan []byte, d time.Duration) ([]Beacon, error) {
	tick := time.NewTicker(BeaconInterval)
	defer tick.Stop()
	for end := sinceBoot() + d; sinceBoot() < end; {
		b := f.Beacon(sinceBoot())
		data, err := b.Encode(token)
		if err != nil {
			return nil, fmt.Errorf("look for other machines: %w", err)
		}
		air.Broadcast(data)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil, fmt.Errorf("look for other machines: %w", context.Cause(ctx))
			case <-tick.C:
				waiting = false
			case data := <-heard:
				if b, err := DecodeBeacon(token, data); err == nil {
					f.Hear(sinceBoot(), *b)
				}
			}
		}
	}
	return f.Machines(sinceBoot()), nil
}

// MemberInterval is how often a member calls out, so that a machine that starts finds the cluster.
const MemberInterval = 500 * time.Millisecond

// Announce sends a member's beacons until the context ends. Beacon makes them anew each time, as addresses
// change; Counter and Expect are filled in.
func Announce(ctx context.Context, token Token, air Air, beacon func() Beacon, log *slog.Logger) {
	tick := time.NewTicker(MemberInterval)
	defer tick.Stop()
	for {
		b := beacon()
		b.Counter, b.Vote, b.Term, b.Expect = uint64(sinceBoot()), Candidacy{}, 0, 0
		if data, err := b.Encode(token); err != nil {
			log.Error("this member cannot be found by others", "err", err)
		} else {
			air.Broadcast(data)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sinceBoot is the time since the machine's boot: it rises through restarts of the agent and does not care
// when the clock is set.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil { // every kernel since 2.6.39 has it
		panic("admission: clock of the boot: " + err.Error())
	}
	return time.Duration(ts.Nano())
}
